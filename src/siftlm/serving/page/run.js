// One run: select by both methods, then request three answers at once, and pass their events to the view.

import { post, stream } from "./api.js";
import { modelName } from "./state.js";

export const SIDES = { base: () => "base", nearest: () => "nearest", sift: (state) => state.method };

const chosen = (state) => (state.noise === null ? {} : { noise: state.noise });

// The selections of both methods: {nearest, sift}, each with hits, uncertainty and plane.
export async function selected(state, signal) {
  const asked = (method) => post("v1/select", {
    model: modelName(state, method), input: state.prompt, plane: true, siftlm: chosen(state),
  }, signal);
  const [nearest, sift] = await Promise.all([asked("nearest"), asked(state.method)]);
  return { nearest, sift };
}

export function body(state, side) {
  const method = SIDES[side](state);
  const asked = {
    model: modelName(state, method), prompt: state.prompt, max_tokens: state.max, temperature: state.temperature, seed: state.seed,
  };
  return { ...asked, siftlm: method === "base" ? { events: true } : { ...chosen(state), events: true } };
}

// tell(side): {selected, step, learned, said, finished, failed}. A failure leaves the others running; a stop ends all.
export async function answered(state, sides, tell, signal) {
  await Promise.all(sides.map(async (side) => {
    const told = tell(side);
    try {
      await one(body(state, side), told, signal);
    } catch (error) {
      told.failed(signal.aborted ? "stopped" : error.message);
      if (!signal.aborted) throw error;
    }
  }).map((promise) => promise.catch((error) => error))).then((ends) => {
    const failed = ends.find((end) => end instanceof Error);
    if (failed) throw failed;
  });
}

async function one(asked, told, signal) {
  let cached = false, spent = null;
  for await (const chunk of stream("v1/completions", asked, signal)) {
    const event = chunk.siftlm;
    if (event) {
      if (event.event === "selected") {
        cached = Boolean(event.cached);
        told.selected(event.found, cached);
      } else if (event.event === "step") told.step(event.step, event.taken, event.planned);
      else if (event.event === "learned") told.learned(event.trace, cached);
      else if (event.event === "finished") spent = event.seconds;
    }
    for (const choice of chunk.choices || []) told.said(choice.text || "", choice.finish_reason);
  }
  told.finished(spent);
}

// The request of one side as a shell command.
export function curl(state, origin, secret) {
  const plain = JSON.stringify({ ...body(state, "sift"), stream: true }, null, 1).replaceAll("'", "'\\''");
  const key = secret ? " -H \"Authorization: Bearer $SIFTLM_KEY\"" : "";
  return `curl -N ${origin}v1/completions -H 'Content-Type: application/json'${key} -d '${plain}'`;
}
