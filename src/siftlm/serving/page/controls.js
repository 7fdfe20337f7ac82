// The form: reading and writing its fields.

import { byId, el } from "./dom.js";
import { DEFAULTS, fromSlider, offered, toSlider, within } from "./state.js";
import { METHODS, nameOf, short } from "./words.js";

export const EXAMPLES = {
  fractions: "What is (3/4) + (1/6)?\n11/12\n\nSimplify (5/8) - (1/3).\n7/24\n\nCalculate (2/5) * (3/7).\n",
  code: "def read_settings(path):\n    \"\"\"Return the settings in a file as a dictionary.\n\n    Lines that begin with # are comments.\n    \"\"\"\n",
  prose: "A generator is a function that yields its results one by one. When it is called, ",
};

const FIELDS = ["prompt", "method", "n", "max", "temperature", "seed", "memory", "model"];

export function read() {
  const state = { ...DEFAULTS };
  for (const name of FIELDS) {
    const value = byId(name).value;
    state[name] = name in numbers ? within(name, value) : value;
  }
  if (moved) state.noise = fromSlider(byId("noise").value);
  return state;
}

let moved = false; // λ is the server's value until its slider is moved
let noises = {};

export function moveNoise() {
  moved = true;
}

const numbers = { n: 1, max: 1, temperature: 1, seed: 1 };

export function write(state) {
  const n = byId("n");
  n.max = Math.max(100, state.n);
  for (const name of FIELDS) {
    const field = byId(name);
    if (field.tagName === "SELECT" && state[name] && ![...field.options].some((option) => option.value === state[name])) {
      field.append(el("option", { value: state[name] }, name === "method" ? nameOf(state[name]) : state[name]));
    }
    field.value = String(state[name]);
  }
  moved = state.noise !== null;
  if (moved) byId("noise").value = String(toSlider(state.noise));
  said();
}

// The values beside the sliders, and the description of the method.
export function said() {
  const state = read();
  byId("n-value").textContent = String(state.n);
  const noise = moved ? state.noise : noises[state.memory] || 1;
  if (!moved) byId("noise").value = String(toSlider(noise));
  byId("noise-value").textContent = short(noise);
  byId("noise").setAttribute("aria-valuetext", short(noise));
  byId("method-help").textContent = METHODS[state.method] ? METHODS[state.method][1] : "";
  for (const place of document.querySelectorAll(".method-name")) place.textContent = nameOf(state.method);
}

export function offerMethods() {
  byId("method").replaceChildren(...Object.entries(METHODS).map(([value, [name]]) => el("option", { value }, name)));
}

// listed: the answer of /v1/models. Keeps the link's choices that the server has, and returns all that can be chosen.
export function offer(listed, wanted) {
  const found = offered(listed);
  noises = found.noises;
  const model = byId("model"), memory = byId("memory");
  model.replaceChildren(...found.models.map((name) => el("option", { value: name }, name)));
  memory.replaceChildren(
    ...(found.byDefault ? [el("option", { value: "" }, found.defaultMemory || "default")] : []),
    ...found.memories.map((name) => el("option", { value: name }, name)),
  );
  const lost = [];
  if (found.models.includes(wanted.model)) model.value = wanted.model;
  else if (wanted.model) lost.push(`the model ${wanted.model}`);
  if ([...memory.options].some((option) => option.value === wanted.memory)) memory.value = wanted.memory;
  else if (wanted.memory) lost.push(`the memory ${wanted.memory}`);
  model.closest("label").hidden = found.models.length < 2;
  memory.closest("label").hidden = memory.options.length < 2;
  said();
  return { ...found, lost };
}
