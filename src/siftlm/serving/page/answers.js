// Three answers side by side as they are written: of the base model, and after tuning on either selection.

import { byId, el } from "./dom.js";
import { ended, seconds } from "./words.js";

// The lines and characters of the prompt to show before each answer.
const LINES = 3, LETTERS = 140;

// Returns the handlers of its stream: selected, step, learned, said, finished, failed.
export function answer(side, prompt) {
  const box = byId(`answer-${side}`);
  const how = el("span", { class: "how" }, "waiting");
  const bar = el("progress", { max: 1, value: 0, "aria-label": "steps taken", hidden: side === "base" });
  const text = el("span", { class: "said" });
  const pre = el("pre", { tabindex: 0, "aria-label": `${box.dataset.name}: prompt and answer` }, el("span", { class: "asked" }, endOf(prompt)), text);
  box.replaceChildren(bar, pre, el("p", { class: "facts" }, how));
  box.dataset.state = "waiting";
  const began = performance.now();
  let learned = "", reason = "";
  const state = (name, words) => {
    box.dataset.state = name;
    how.textContent = words;
  };
  return {
    selected: (cached) => state("learning", cached ? "tuned before, from the cache" : "tuning"),
    step: (taken, planned) => {
      bar.value = planned ? taken / planned : 0;
      state("learning", `tuning: step ${taken} of ${planned}`);
    },
    learned: (trace, cached) => {
      bar.value = 1;
      learned = cached ? "tuned before, from the cache" : ended(trace);
      state("writing", `${learned}; writing`);
    },
    said: (more, finish) => {
      // Do not scroll while somebody reads further up.
      const follows = pre.scrollHeight - pre.scrollTop - pre.clientHeight < 24;
      text.append(more);
      if (follows) pre.scrollTop = pre.scrollHeight;
      if (finish) reason = finish;
      if (box.dataset.state !== "writing") state("writing", "writing");
    },
    finished: (spent) => {
      bar.hidden = true;
      pre.scrollTop = 0; // all answers from their beginnings
      const all = spent && Object.keys(spent).length ? Object.values(spent).reduce((sum, one) => sum + one, 0) : (performance.now() - began) / 1000;
      const stopped = reason === "stop" ? "ended by the model" : null;
      const parts = [side === "base" ? "not tuned" : learned, stopped, seconds(all)].filter(Boolean);
      if (!text.textContent) parts.unshift("an empty answer");
      state("done", parts.join("; "));
    },
    failed: (words) => {
      bar.hidden = true;
      state("failed", words);
    },
    get going() {
      return box.dataset.state !== "done" && box.dataset.state !== "failed";
    },
  };
}

function endOf(prompt) {
  const lines = prompt.split("\n");
  const blank = /^\s*$/.test(lines.at(-1)) ? 1 : 0;
  const last = lines.slice(-LINES - blank).join("\n");
  const end = last.length > LETTERS ? last.slice(-LETTERS).trimStart() : last;
  return end.length < prompt.length ? `… ${end.trimStart()}` : end;
}

export function stale(is) {
  for (const box of document.querySelectorAll(".answer")) box.classList.toggle("stale", is);
}
