// The page: its buttons and keys, and what they do.

import { get, key } from "./api.js";
import { stale } from "./answers.js";
import { EXAMPLES, moveNoise, offer, offerMethods, read, said, write } from "./controls.js";
import { byId } from "./dom.js";
import { curl, SIDES, answered, selected } from "./run.js";
import { fromHash, toHash, DEFAULTS } from "./state.js";
import { plural, seconds } from "./words.js";
import { View } from "./view.js";

const view = new View();
let running = null; // the AbortController of the current run
let server = { models: [], learns: false };
let again = 0; // the timer of the selection after a slider has moved

function status(words) {
  byId("status").textContent = words;
}

function failed(error) {
  if (error.name === "AbortError") return status("Stopped.");
  const box = byId("error");
  box.textContent = error.message;
  box.hidden = false;
  status("");
  if (error.status !== 401 && error.status !== 403) return null;
  byId("key-box").hidden = false;
  byId("key").focus();
  return null;
}

// Runs one thing at a time; a new one ends the current one.
async function doing(work) {
  clearTimeout(again);
  if (running) running.abort();
  const own = running = new AbortController();
  busy(true);
  byId("error").hidden = true;
  try {
    await work(own.signal);
  } catch (error) {
    if (running === own) failed(error);
  } finally {
    if (running === own) {
      running = null;
      busy(false);
    }
  }
}

function busy(is) {
  byId("stop").hidden = !is;
  document.body.classList.toggle("busy", is);
  byId("results").setAttribute("aria-busy", String(is));
}

// The form, or null if something is missing. A server that was down when the page was opened may be back.
async function asked() {
  if (!server.models.length) await connect();
  if (!server.models.length) return null;
  const state = read();
  if (!state.model) state.model = server.models[0] || "";
  if (state.prompt.trim()) return state;
  byId("prompt").focus();
  status("Write a prompt first, or pick an example.");
  return null;
}

function remember(state) {
  const plain = { ...state, model: state.model === server.models[0] ? "" : state.model };
  history.replaceState(null, "", toHash(plain) || location.pathname + location.search);
}

async function choose(state, signal) {
  const began = performance.now();
  status("Selecting …");
  const found = await selected(state, signal);
  view.selected(state, found);
  const took = seconds((performance.now() - began) / 1000);
  const where = found.sift.memory ? ` in the memory “${found.sift.memory}”` : "";
  status(`${plural(found.sift.hits.length, "text")} of ${plural(found.sift.considered, "candidate")}${where} selected in ${took}.`);
}

async function run() {
  const state = await asked();
  if (!state) return;
  remember(state);
  doing(async (signal) => {
    const began = performance.now();
    view.begin(state, curl(state, base(), key.get()));
    if (server.learns) await choose(state, signal);
    const sides = Object.keys(SIDES).filter((side) => side === "base" || server.learns);
    view.answers(state, sides);
    reveal();
    await answered(state, sides, (side) => view.told(side, status), signal);
    status(signal.aborted ? "Stopped." : `Done in ${seconds((performance.now() - began) / 1000)}.`);
  });
}

async function only() {
  const state = await asked();
  if (!state) return;
  remember(state);
  doing(async (signal) => {
    view.begin(state, curl(state, base(), key.get()));
    await choose(state, signal);
    reveal();
  });
}

const base = () => new URL(".", document.baseURI).href;

// On a small screen the results are below the form.
function reveal() {
  const results = byId("results");
  if (results.getBoundingClientRect().top > window.innerHeight * 0.6) results.scrollIntoView({ block: "start" });
}

// A changed setting selects again, which is cheap. The answers are then those of earlier settings, and turn pale.
function changed(event) {
  if (event.target.id === "noise") moveNoise();
  said();
  if (!view.shows || event.target.id === "prompt" || event.target.id === "key") return;
  stale(true);
  if (!["n", "noise", "method", "memory", "model"].includes(event.target.id) || !server.learns) return;
  clearTimeout(again);
  again = setTimeout(() => {
    const state = read();
    if (!state.model) state.model = server.models[0] || "";
    if (!state.prompt.trim()) return;
    remember(state);
    doing((signal) => choose(state, signal));
  }, 250);
}

async function connect() {
  try {
    const { data } = await get("v1/models");
    const wanted = fromHash(location.hash);
    server = offer(data, wanted);
    byId("error").hidden = true;
    byId("key-box").hidden = !key.get();
    byId("about").textContent = server.models.join(", ") + (server.learns ? "" : "; no memory to select from");
    byId("select").hidden = !server.learns;
    byId("run").textContent = server.learns ? "Tune and answer" : "Answer";
    status(server.lost.length ? `The link names ${server.lost.join(" and ")}, which this server does not have.` : "");
  } catch (error) {
    failed(error);
  }
}

async function copy(button, text) {
  const before = button.dataset.words || (button.dataset.words = button.textContent);
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Copying is not allowed here: copy it by hand";
  }
  setTimeout(() => { button.textContent = before; }, 1600);
}

function stop() {
  clearTimeout(again);
  if (running) running.abort();
}

function useKey() {
  key.set(byId("key").value.trim());
  byId("key").value = "";
  connect();
}

function start() {
  offerMethods();
  write(fromHash(location.hash));
  if (matchMedia("(max-width: 56rem)").matches) byId("settings").open = false;
  byId("ask").addEventListener("submit", (event) => { event.preventDefault(); run(); });
  byId("ask").addEventListener("input", changed);
  byId("select").addEventListener("click", only);
  byId("stop").addEventListener("click", stop);
  byId("key-use").addEventListener("click", useKey);
  byId("key").addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    useKey();
  });
  byId("key-forget").addEventListener("click", () => { key.set(""); connect(); });
  byId("link").addEventListener("click", () => { remember(read()); copy(byId("link"), location.href); });
  byId("curl-copy").addEventListener("click", () => copy(byId("curl-copy"), byId("curl").textContent));
  byId("reset").addEventListener("click", () => {
    write({ ...DEFAULTS, prompt: byId("prompt").value, model: byId("model").value, memory: byId("memory").value });
    changed({ target: byId("n") });
  });
  for (const button of document.querySelectorAll("[data-example]")) {
    button.addEventListener("click", () => { byId("prompt").value = EXAMPLES[button.dataset.example]; byId("prompt").focus(); });
  }
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") stop();
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); run(); }
  });
  window.addEventListener("hashchange", () => { stop(); write(fromHash(location.hash)); connect(); });
  connect();
}

start();
