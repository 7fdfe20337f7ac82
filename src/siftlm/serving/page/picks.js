// The texts that one method selected: why, and how much of each repeats an earlier one.

import { byId, el } from "./dom.js";
import { light, whenLit } from "./light.js";
import { percent, picked, plural, repeats, source } from "./words.js";

// The texts to show; the others are folded away.
const LISTED = 5;
// Longer texts are folded.
const LINES = 7, LETTERS = 420;
// Smaller shares are what any two texts of one kind have in common.
const WORTH_SAYING = 0.2;

// side: "nearest" | "sift". others: the rows that the other side selected.
export function list(side, name, found, others) {
  const { hits, uncertainty } = found;
  const said = repeats(hits.map((hit) => hit.text));
  const rows = hits.map((hit) => hit.row);
  const seen = new Map();
  const cards = hits.map((hit, at) => {
    const before = seen.get(hit.row);
    if (before === undefined) seen.set(hit.row, at);
    return card(side, hit, at, { before, repeat: said[at], gain: gainOf(uncertainty, at), overlap: overlapOf(found, at), own: others.size > 0 && !others.has(hit.row) });
  });
  const nodes = [
    el("h2", {}, el("span", { class: `sign ${side}`, "aria-hidden": "true" }), name),
    el("p", { class: "faint sum" }, [picked(rows, others), ...figures(uncertainty, said)].join("; ")),
    el("ol", {}, cards.slice(0, LISTED)),
  ];
  if (cards.length > LISTED) {
    nodes.push(el("details", { class: "rest" }, el("summary", {}, `and ${cards.length - LISTED} more`),
      el("ol", { start: LISTED + 1 }, cards.slice(LISTED))));
  }
  return nodes;
}

function figures(uncertainty, said) {
  const left = uncertainty.at(-1) / uncertainty[0];
  const repeated = said.reduce((sum, one) => sum + one.share, 0) / (said.length || 1);
  return [Number.isFinite(left) ? `${percent(left)} of the uncertainty left` : null, `${percent(repeated)} of the words as in an earlier pick`].filter(Boolean);
}

// The similarity to the nearest earlier pick, from the server; only some methods report it.
const overlapOf = (found, at) => (at && found.explanation && found.explanation[at] ? found.explanation[at].overlap : null);

const gainOf = (uncertainty, at) => (uncertainty[at] - uncertainty[at + 1]) / uncertainty[0];

function card(side, hit, at, { before, repeat, gain, overlap, own }) {
  const again = before !== undefined;
  const [text, fold] = folded(hit.text);
  const number = el("button", {
    type: "button", class: "number", "aria-label": `Pick ${at + 1}: show it in the picture`,
    onfocus: () => light(hit.row), onblur: () => light(null), onclick: () => byId("plane").scrollIntoView({ block: "nearest" }),
  }, String(at + 1));
  return el("li", {
    class: ["card", side, own && "own", again && "again"].filter(Boolean).join(" "), id: `${side}-${at + 1}`, "data-row": hit.row,
    onpointerenter: () => light(hit.row), onpointerleave: () => light(null),
  }, number, el("div", {},
    again ? el("p", { class: "faint" }, `pick ${before + 1} again`) : text,
    el("div", { class: "facts" }, facts(hit, { gain, overlap, repeat, again }), again ? null : fold)));
}

function facts(hit, { gain, overlap, repeat, again }) {
  const said = [
    Number.isFinite(gain) ? el("span", { title: "the share of the uncertainty about the prompt that this text removed" }, `gain ${(100 * gain).toFixed(1)} %`) : null,
    Number.isFinite(hit.score) ? el("span", { title: "similarity to the prompt" }, `cosine ${hit.score.toFixed(2)}`) : null,
    Number.isFinite(hit.words_score) ? el("span", { title: "BM25: how well the words of the prompt are matched" }, `words ${hit.words_score.toFixed(2)}`) : null,
    Number.isFinite(overlap) && !again ? el("span", { title: "similarity to the nearest earlier pick" }, `overlap ${overlap.toFixed(2)}`) : null,
  ];
  if (!again && repeat.share >= WORTH_SAYING) {
    said.push(el("span", { class: "repeats", title: "the share of its word triples that occur in that earlier pick" }, `${percent(repeat.share)} of the words as in pick ${repeat.of + 1}`));
  }
  if (hit.copies > 1) said.push(el("span", {}, `${plural(hit.copies, "copy").replace("copys", "copies")} in the memory`));
  said.push(el("span", { class: "source" }, source(hit)));
  return said;
}

// The text, and the button that unfolds a long one.
function folded(text) {
  const lines = text.replace(/^\s*\n|\s+$/g, "").replace(/\n\s*\n/g, "\n\n").split("\n");
  const whole = lines.join("\n");
  const start = lines.slice(0, LINES).join("\n").slice(0, LETTERS);
  if (whole.length <= start.length + 40) return [el("pre", {}, whole), null];
  const shown = el("pre", {}, `${start.trimEnd()} …`);
  const more = el("button", { type: "button", class: "fold", "aria-expanded": "false", onclick: () => {
    const open = more.getAttribute("aria-expanded") === "true";
    more.setAttribute("aria-expanded", String(!open));
    more.textContent = open ? "whole text" : "less";
    shown.textContent = open ? `${start.trimEnd()} …` : whole;
  } }, "whole text");
  return [shown, more];
}

// Where the row stands in the lists, opened if it was folded away.
export function goTo(row) {
  const card = document.querySelector(`.picks .card.sift[data-row="${row}"]`) || document.querySelector(`.picks .card[data-row="${row}"]`);
  if (!card) return;
  const rest = card.closest("details");
  if (rest) rest.open = true;
  card.scrollIntoView({ block: "center" });
  card.querySelector("button.number").focus({ preventScroll: true });
}

whenLit((row) => {
  for (const card of document.querySelectorAll(".picks .card")) card.classList.toggle("lit", row !== null && Number(card.dataset.row) === row);
});
