// The highlighted pick, in the plane and in the lists.

const listeners = new Set();

// row: a row of the memory, or null.
export function light(row) {
  for (const listener of listeners) listener(row);
}

export function whenLit(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}
