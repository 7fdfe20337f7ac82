// The state in a link: the prompt and the settings, never a key. Nothing here touches the page.

// noise: null means the server's own value, which calibration may have chosen.
export const DEFAULTS = Object.freeze({
  prompt: "", method: "sift", n: 20, noise: null, max: 80, temperature: 0.8, seed: 0, model: "", memory: "",
});

const SHORT = { prompt: "p", method: "by", n: "n", noise: "noise", max: "max", temperature: "t", seed: "seed", model: "model", memory: "memory" };
export const LIMITS = { n: [1, 200], noise: [0.001, 100], max: [1, 4096], temperature: [0, 2], seed: [0, 2 ** 31 - 1] };
const WHOLE = new Set(["n", "max", "seed"]);

// "#p=…&n=20": only what differs from the defaults, so that links stay short.
export function toHash(state) {
  const parts = new URLSearchParams();
  for (const [name, key] of Object.entries(SHORT)) {
    if (state[name] !== DEFAULTS[name]) parts.set(key, String(state[name]));
  }
  const text = parts.toString();
  return text ? `#${text}` : "";
}

// Parses any text after the #: unknown names are ignored, and numbers are brought into their limits.
export function fromHash(hash) {
  const parts = new URLSearchParams(String(hash).replace(/^#/, ""));
  const state = { ...DEFAULTS };
  for (const [name, key] of Object.entries(SHORT)) {
    const given = parts.get(key);
    if (given === null) continue;
    state[name] = name in LIMITS ? within(name, given) : given;
  }
  if (!/^[a-z][a-z0-9_+.-]{0,39}$/.test(state.method)) state.method = DEFAULTS.method;
  return state;
}

export function within(name, given) {
  const number = typeof given === "string" && !given.trim() ? NaN : Number(given);
  if (!Number.isFinite(number)) return DEFAULTS[name];
  const [low, high] = LIMITS[name];
  const inside = Math.min(high, Math.max(low, number));
  return WHOLE.has(name) ? Math.round(inside) : inside;
}

// The slider of λ is logarithmic.
export const toSlider = (noise) => Math.log10(noise);
export const fromSlider = (place) => Number((10 ** Number(place)).toPrecision(2));

// "siftlm-tiny:sift-20@papers"
export function modelName(state, method) {
  if (method === "base") return state.model;
  const at = state.memory ? `@${state.memory}` : "";
  return `${state.model}:${method}-${state.n}${at}`;
}

// The names of /v1/models, taken apart: the model before the colon, and the memories after the @. noises: the server's
// λ for each memory.
export function offered(listed) {
  const models = [], memories = [], noises = {};
  let learns = false;
  for (const { id, siftlm } of listed) {
    const [base, mode] = String(id).split(/:(.*)/s);
    if (!models.includes(base)) models.push(base);
    if (mode === undefined) continue;
    const [way, memory] = mode.split(/@(.*)/s);
    if (way.startsWith("sift") && siftlm && siftlm.noise) noises[memory || ""] = siftlm.noise;
    if (memory === undefined) learns = true;
    else if (!memories.includes(memory)) memories.push(memory);
  }
  return { models, memories, noises, byDefault: learns, learns: learns || memories.length > 0 };
}
