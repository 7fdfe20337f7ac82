// The prompt, its candidates and the picks in a plane. Pointing at a pick, or moving to it by keys, highlights its text.

import { svg } from "./dom.js";
import { light, whenLit } from "./light.js";

const WIDE = 480, HIGH = 400, EDGE = 26;
// The distance from which a pointer selects a pick, or a candidate: marks are small, and overlap.
const REACH = 20, NEAR = 9;

// plane: from /v1/select. chosen: Map of row -> {sift: [places], nearest: [places], text}, in the order of the keys.
export function plane(given, chosen, goTo) {
  const place = fitted(given);
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "group", "aria-label": described(given, chosen) });
  const thread = svg("line", { class: "thread" });
  picture.append(thread);
  for (const candidate of given.candidates) {
    if (chosen.has(candidate.row)) continue;
    const [x, y] = place(candidate);
    picture.append(svg("circle", { class: "candidate", cx: x, cy: y, r: 2.6 }));
  }
  const marks = new Map();
  const where = new Map(given.candidates.map((candidate) => [candidate.row, place(candidate)]));
  const origin = place({ x: given.prompt[0], y: given.prompt[1] });
  picture.append(prompt(...origin));
  for (const [row, pick] of chosen) {
    if (!where.has(row)) continue;
    const mark = marked(row, pick, where.get(row), goTo);
    marks.set(row, mark);
    picture.append(mark);
  }
  rove([...marks.values()]);
  pointed(picture, where, marks, goTo);
  const forget = whenLit((row) => {
    for (const [own, mark] of marks) mark.classList.toggle("lit", own === row);
    thread.classList.toggle("lit", marks.has(row));
    if (!marks.has(row)) return;
    const [x, y] = where.get(row);
    for (const [name, value] of Object.entries({ x1: origin[0], y1: origin[1], x2: x, y2: y })) thread.setAttribute(name, value);
  });
  return { picture, forget, missing: [...chosen.keys()].filter((row) => !where.has(row)).length };
}

// A square for nearest neighbour, a disc for the other method, and both if both selected it.
function marked(row, pick, [x, y], goTo) {
  const group = svg("g", {
    class: "pick", tabindex: -1, role: "button", "data-row": row, "aria-label": spoken(pick),
    onfocus: () => light(row), onblur: () => light(null),
    onkeydown: (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      if (event.ctrlKey || event.metaKey) return;
      event.preventDefault();
      goTo(row);
    },
  });
  group.append(svg("circle", { class: "reach", cx: x, cy: y, r: 11 }));
  if (pick.nearest.length) group.append(svg("rect", { class: "nearest", x: x - 7, y: y - 7, width: 14, height: 14, rx: 1.5 }));
  if (pick.sift.length) group.append(svg("circle", { class: "sift", cx: x, cy: y, r: 4.2 + Math.min(3, 0.8 * (pick.sift.length - 1)) }));
  group.append(svg("text", { class: "number", x, y: y - 12, "text-anchor": "middle" }, numbers(pick)));
  return group;
}

function prompt(x, y) {
  const arm = 9;
  return svg("g", { class: "prompt" },
    svg("path", { class: "halo", d: `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}` }),
    svg("path", { d: `M${x - arm} ${y}H${x + arm}M${x} ${y - arm}V${y + arm}` }));
}

const numbers = (pick) => [...new Set([...pick.sift, ...pick.nearest])].slice(0, 4).map((at) => at + 1).join(", ");

export function spoken(pick) {
  const said = [];
  if (pick.sift.length) said.push(`${pick.name} ${pick.sift.map((at) => at + 1).join(", ")}`);
  if (pick.nearest.length) said.push(`Nearest ${pick.nearest.map((at) => at + 1).join(", ")}`);
  return `${said.join("; ")}: ${pick.text.trim().replace(/\s+/g, " ").slice(0, 90)}`;
}

function described(given, chosen) {
  return `The prompt and its ${given.candidates.length} candidates in the plane; ${chosen.size} of them are picked. Arrow keys go from pick to pick.`;
}

// The same scale in both directions: stretching would distort distances.
function fitted(given) {
  const points = [...given.candidates.map(({ x, y }) => [x, y]), given.prompt];
  const [xs, ys] = [points.map((point) => point[0]), points.map((point) => point[1])];
  const [left, right, low, high] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = Math.min((WIDE - 2 * EDGE) / (right - left || 1), (HIGH - 2 * EDGE) / (high - low || 1));
  return ({ x, y }) => [
    WIDE / 2 + (x - (left + right) / 2) * scale,
    HIGH / 2 - (y - (low + high) / 2) * scale,
  ];
}

// Highlights the mark nearest to the pointer. A click goes to its text; a touch only highlights it.
function pointed(picture, where, marks, goTo) {
  const at = (event) => {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(picture.getScreenCTM().inverse());
    let best = null, least = Infinity;
    for (const [row, [x, y]] of where) {
      const far = Math.hypot(x - point.x, y - point.y) / (marks.has(row) ? REACH : NEAR);
      if (far < 1 && far < least) [best, least] = [row, far];
    }
    return best;
  };
  picture.addEventListener("pointermove", (event) => light(at(event)));
  picture.addEventListener("pointerleave", (event) => { if (event.pointerType !== "touch") light(null); });
  picture.addEventListener("click", (event) => {
    const row = at(event);
    light(row);
    if (marks.has(row) && event.pointerType !== "touch") goTo(row);
  });
}

// Tab reaches one pick; arrow keys move to the others.
function rove(marks) {
  if (marks.length) marks[0].setAttribute("tabindex", 0);
  const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 };
  marks.forEach((mark, at) => mark.addEventListener("keydown", (event) => {
    const target = event.key === "Home" ? 0 : event.key === "End" ? marks.length - 1
      : event.key in steps ? (at + steps[event.key] + marks.length) % marks.length : null;
    if (target === null) return;
    event.preventDefault();
    mark.setAttribute("tabindex", -1);
    marks[target].setAttribute("tabindex", 0);
    marks[target].focus();
  }));
}
