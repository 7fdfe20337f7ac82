// Line charts that may grow, with names at the ends of the lines, as in the report of `siftlm demo`.

import { svg } from "./dom.js";

const WIDE = 440, HIGH = 220;
const LEFT = 40, RIGHT = WIDE - 92, TOP = 26, BOTTOM = HIGH - 36, LINE = 16;

// series: [{name, colour: "a", points: [[x, y]], dots: [[x, y]], faint: [[x, y]], mark: [x, y] | null}]
export function chart(series, { title, xName, yName, xMost = 0, fromZero = false, most = null }) {
  const all = series.flatMap((one) => [...(one.points || []), ...(one.dots || []), ...(one.faint || [])]);
  const inside = all.filter((point) => Number.isFinite(point[1]));
  const picture = svg("svg", { viewBox: `0 0 ${WIDE} ${HIGH}`, role: "img", "aria-label": `${title}: ${spoken(series, yName)}` });
  const frame = framed(inside, xMost, fromZero, most);
  for (const value of frame.ticks) {
    picture.append(svg("line", { class: "axis", x1: LEFT, x2: RIGHT, y1: frame.y(value), y2: frame.y(value) }));
    picture.append(svg("text", { x: LEFT - 6, y: frame.y(value) + 4, "text-anchor": "end" }, String(Number(value.toPrecision(3)))));
  }
  for (const value of frame.feet) {
    picture.append(svg("text", { x: frame.x(value), y: BOTTOM + 17, "text-anchor": "middle" }, String(value)));
  }
  picture.append(svg("text", { x: RIGHT, y: HIGH - 2, "text-anchor": "end" }, xName), svg("text", { x: 2, y: 11 }, yName));
  for (const one of series) picture.append(...drawn(one, frame));
  picture.append(...names(series, frame));
  return picture;
}

function drawn(one, frame) {
  const parts = [];
  const place = ([x, y]) => `${frame.x(x).toFixed(1)},${frame.y(y).toFixed(1)}`;
  const line = (points, kind) => svg("polyline", { class: `${kind} stroke-${one.colour}`, points: points.filter((p) => Number.isFinite(p[1])).map(place).join(" ") });
  if (one.faint && one.faint.length > 1) parts.push(line(one.faint, "faintly"));
  for (const [x, y] of one.dots || []) {
    if (Number.isFinite(y)) parts.push(svg("circle", { class: `dot fill-${one.colour}`, cx: frame.x(x), cy: frame.y(y), r: 2 }));
  }
  if (one.points && one.points.length > 1) parts.push(line(one.points, "line"));
  if (one.mark) parts.push(svg("circle", { class: `fill-${one.colour}`, cx: frame.x(one.mark[0]), cy: frame.y(one.mark[1]), r: 4.5 }));
  return parts;
}

// Names are moved apart if they would overlap.
function names(series, frame) {
  const ends = series.map((one) => [last(one), one]).filter(([point]) => point).map(([point, one]) => ({ y: frame.y(point[1]), x: frame.x(point[0]), one }));
  ends.sort((left, right) => left.y - right.y);
  for (let at = 1; at < ends.length; at++) ends[at].y = Math.max(ends[at].y, ends[at - 1].y + LINE);
  let above = BOTTOM + LINE;
  for (const end of ends.slice().reverse()) above = end.y = Math.min(end.y, above - LINE);
  return ends.map(({ y, one }) => svg("text", { class: `name ink-${one.colour}`, x: RIGHT + 6, y: y + 4 }, one.name));
}

function last(one) {
  const points = one.points && one.points.length ? one.points : one.faint || one.dots || [];
  return points.filter((point) => Number.isFinite(point[1])).at(-1);
}

function spoken(series, unit) {
  const said = series.map((one) => [one, last(one)]).filter(([, point]) => point).map(([one, point]) => `${one.name} ${Number(point[1].toPrecision(3))} ${unit}`);
  return said.join(", ") || "no data yet";
}

function framed(points, xMost, fromZero, most) {
  const ys = points.map((point) => point[1]);
  const low = fromZero || !ys.length ? 0 : Math.min(...ys);
  const high = most ?? (ys.length ? Math.max(...ys) : 1);
  const step = stepOf(high - low || Math.abs(high) || 1, 5);
  const bottom = Math.floor(low / step + 1e-9) * step;
  const top = Math.max(Math.ceil(high / step - 1e-9) * step, bottom + step);
  const reach = Math.max(xMost, ...points.map((point) => point[0]), 1);
  const foot = Math.max(1, stepOf(reach, 5));
  return {
    x: (value) => LEFT + (value / reach) * (RIGHT - LEFT),
    y: (value) => BOTTOM - ((value - bottom) / (top - bottom)) * (BOTTOM - TOP),
    ticks: counted(bottom, step, Math.round((top - bottom) / step)),
    feet: counted(0, foot, Math.floor(reach / foot + 1e-9)),
  };
}

const counted = (first, step, count) => Array.from({ length: count + 1 }, (_, at) => first + step * at);

// 1, 2 or 5 times a power of ten, so that `reach` has about `count` of them.
function stepOf(reach, count) {
  const raw = reach / count, power = 10 ** Math.floor(Math.log10(raw));
  return [1, 2, 5, 10].map((times) => times * power).find((step) => step >= raw * (1 - 1e-9));
}
