// The server: requests, streams of events, and errors in words.

import { trouble } from "./words.js";

const KEY = "siftlm.key";

// The key stays in this tab: not in the address, not on disk.
export const key = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export class Refused extends Error {
  constructor(status, error, retryAfter) {
    super(trouble(status, error, retryAfter));
    this.status = status;
  }
}

export async function get(path, signal) {
  return (await asked(path, { signal })).json();
}

export async function post(path, body, signal) {
  return (await asked(path, { method: "POST", body: JSON.stringify(body), signal })).json();
}

// The events of a stream; an error inside it is thrown like any other.
export async function* stream(path, body, signal) {
  const response = await asked(path, { method: "POST", body: JSON.stringify({ ...body, stream: true }), signal });
  let done = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        done = true;
        return;
      }
      const event = JSON.parse(data);
      if (event.error) throw new Refused(event.error.status || 0, event.error, null);
      yield event;
    }
  } catch (error) {
    throw error instanceof TypeError ? broken() : error;
  }
  if (!done) throw broken();
}

const broken = () => new Refused(0, { message: "The connection was lost before the answer was complete." });

async function asked(path, options) {
  const headers = {};
  if (options.body) headers["Content-Type"] = "application/json";
  if (key.get()) headers.Authorization = `Bearer ${key.get()}`;
  let response;
  try {
    response = await fetch(new URL(path, document.baseURI), { ...options, headers, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, { message: "The server cannot be reached. Is it still running?" });
  }
  if (response.ok) return response;
  const error = await response.json().then((body) => body.error, () => null);
  throw new Refused(response.status, error, response.headers.get("Retry-After"));
}

// The data of server-sent events, however the network splits them.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split(/\r?\n/);
      rest = lines.pop();
      for (const line of lines) if (line.startsWith("data:")) yield line.slice(5).trim();
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}
