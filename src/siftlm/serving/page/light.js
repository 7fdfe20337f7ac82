// Which pick is being looked at, wherever it is shown: in the plane, and in one list or both.

const told = new Set();

// row: of the memory, or null.
export function light(row) {
  for (const tell of told) tell(row);
}

export function whenLit(tell) {
  told.add(tell);
  return () => told.delete(tell);
}
