// Numbers and errors in words. Nothing here touches the page.

// name, description, and the name beside a curve if it is a shorter one
export const METHODS = {
  sift: ["SIFT", "least uncertainty about the prompt: relevant texts without repetition"],
  auto: ["SIFT, adaptive", "SIFT decides how many texts to take, at most N, and whether tuning is worth it", "adaptive"],
  context: ["SIFT, in the context", "SIFT's texts are put before the prompt; weights are not changed", "in context"],
  itl: ["ITL", "most information about the prompt"],
  mmr: ["MMR", "relevance minus the similarity to the closest pick"],
  dpp: ["DPP", "relevant texts that span as much volume as possible"],
  hull: ["Hull", "few texts, with repetitions, whose mean reconstructs the prompt"],
  uncertainty: ["Uncertainty sampling", "largest uncertainty, whatever the prompt: outliers first", "uncertainty"],
  random: ["Random", "drawn at random from the nearest candidates"],
  "nn-f": ["Nearest, repeated", "the nearest neighbour N times: the effect of repetition", "repeated"],
};

export const nameOf = (method) => (METHODS[method] ? METHODS[method][0] : method);

export const shortNameOf = (method) => ((METHODS[method] && METHODS[method][2]) || nameOf(method));

export const percent = (share) => (Number.isFinite(share) ? `${Math.round(100 * share)} %` : "–");

// 0.01, 0.32, 5.6, 100: two significant digits.
export const short = (number) => (number >= 100 ? String(Math.round(number)) : String(Number(number.toPrecision(2))));

export const seconds = (value) => (value < 10 ? `${value.toFixed(1)} s` : `${Math.round(value)} s`);

export function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

// "20 texts, 12 chosen only here": as in the report of `siftlm demo`.
export function picked(rows, others) {
  const different = new Set(rows);
  const alone = [...different].filter((row) => !others.has(row)).length;
  const much = different.size === rows.length ? plural(rows.length, "text") : `${rows.length} picks of ${plural(different.size, "text")}`;
  return others.size ? `${much}, ${alone} chosen only here` : much;
}

// Where a passage comes from.
export function source(hit) {
  const meta = hit.meta || {};
  const name = meta.name || meta.title || meta.source || meta.url || meta.path || hit.id || `document ${hit.document ?? hit.row}`;
  return hit.parts > 1 ? `${name}, part ${hit.part + 1} of ${hit.parts}` : String(name);
}

// The repetition of each text: the largest share of its distinct word triples that occur in an earlier one, and which.
export function repeats(texts) {
  const known = texts.map(triples);
  return known.map((own, at) => {
    let best = { share: 0, of: null };
    for (let earlier = 0; earlier < at; earlier++) {
      let shared = 0;
      for (const triple of own) if (known[earlier].has(triple)) shared++;
      const share = own.size ? shared / own.size : 0;
      if (share > best.share) best = { share, of: earlier };
    }
    return best;
  });
}

function triples(text) {
  const words = text.toLowerCase().match(/[\p{L}\p{N}_]+/gu) || [];
  if (words.length < 3) return new Set([words.join(" ")]);
  return new Set(words.slice(2).map((word, at) => `${words[at]} ${words[at + 1]} ${word}`));
}

// A trace's `ended`, for people.
export function ended(trace) {
  const taken = trace.steps ? trace.steps.length : 0;
  return {
    done: taken ? `tuned in ${plural(taken, "step")}` : trace.settings && trace.settings.use === "context" ? "the texts are put before the prompt" : "ready",
    seconds: `stopped by the time limit after ${plural(taken, "step")}`,
    tokens: `stopped by the token limit after ${plural(taken, "step")}`,
    worse: `got worse, so the best state was used: ${plural(trace.kept || 0, "step")} of ${taken}`,
    diverged: "tuning diverged: this is the base model's answer",
    declined: "the texts are too little help: this is the base model's answer",
    nothing: "there was no text to tune on",
  }[trace.ended] || String(trace.ended);
}

// An error of the server, and what to do about it. `error` is OpenAI's: {message, type, param, code}.
export function trouble(status, error, retryAfter) {
  const said = error && error.message ? sentence(error.message) : "";
  if (status === 401) return `The server requires an API key. ${said}`.trim();
  if (status === 403) return `This API key is not allowed to do that. ${said}`.trim();
  if (status === 429) return `The server is busy${retryAfter ? `; try again in ${plural(Number(retryAfter), "second")}` : "; try again soon"}. ${said}`.trim();
  if (status === 503) return `The server is shutting down or not ready yet. ${said}`.trim();
  if (status === 504) return `The time limit of the server has passed. ${said}`.trim();
  if (status >= 500) return `The server failed (${status}). ${said}`.trim();
  return said || `The server refused the request (${status}).`;
}

function sentence(message) {
  const text = String(message).trim();
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}
