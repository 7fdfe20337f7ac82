// Numbers and troubles in words. Nothing here touches the page.

// name, what it does, and where it differs the name beside a curve
export const METHODS = {
  sift: ["SIFT", "least uncertainty about the prompt: relevant, and not the same thing twice"],
  auto: ["SIFT, adaptive", "SIFT ends by itself, and tunes only where it seems worth it; N is the most it may take", "adaptive"],
  context: ["SIFT, in the context", "SIFT's texts are put before the prompt; no weight is changed", "in context"],
  itl: ["ITL", "most information about the prompt"],
  mmr: ["MMR", "relevance less the likeness to the closest pick"],
  dpp: ["DPP", "relevant texts that span as much volume as possible"],
  hull: ["Hull", "counts of few texts whose mean rebuilds the prompt"],
  uncertainty: ["Uncertainty sampling", "least known, whatever the prompt: outliers first", "uncertainty"],
  random: ["By lot", "drawn at random from the nearest candidates"],
  "nn-f": ["Nearest, repeated", "the single nearest neighbour N times: what repeating is worth", "repeated"],
};

export const nameOf = (method) => (METHODS[method] ? METHODS[method][0] : method);

export const shortNameOf = (method) => ((METHODS[method] && METHODS[method][2]) || nameOf(method));

export const percent = (share) => (Number.isFinite(share) ? `${Math.round(100 * share)} %` : "–");

// 0.01, 0.32, 5.6, 100: as many digits as anybody reads.
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

// How much of each text stands in an earlier one already: the largest share of its distinct word triples, and the place of that one.
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
    done: taken ? `learned in ${plural(taken, "step")}` : trace.settings && trace.settings.use === "context" ? "the texts stand before the prompt" : "ready",
    seconds: `its time was up after ${plural(taken, "step")}`,
    tokens: `its tokens were used up after ${plural(taken, "step")}`,
    worse: `it got worse, and the best state was taken: ${plural(trace.kept || 0, "step")} of ${taken}`,
    diverged: "learning diverged: this is the base model's answer",
    declined: "the texts tell too little: this is the base model's answer",
    nothing: "there was no text to learn from",
  }[trace.ended] || String(trace.ended);
}

// What the server refused, and what to do about it. `error` is OpenAI's: {message, type, param, code}.
export function trouble(status, error, retryAfter) {
  const said = error && error.message ? sentence(error.message) : "";
  if (status === 401) return `The server asks for an API key. ${said}`.trim();
  if (status === 403) return `This key may not do that. ${said}`.trim();
  if (status === 429) return `The server is busy${retryAfter ? `; try again in ${plural(Number(retryAfter), "second")}` : "; try again soon"}. ${said}`.trim();
  if (status === 503) return `The server is shutting down or not ready yet. ${said}`.trim();
  if (status === 504) return `It took longer than the server allows. ${said}`.trim();
  if (status >= 500) return `Something went wrong in the server (${status}). ${said}`.trim();
  return said || `The server refused the request (${status}).`;
}

function sentence(message) {
  const text = String(message).trim();
  const first = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?…]$/.test(first) ? first : `${first}.`;
}
