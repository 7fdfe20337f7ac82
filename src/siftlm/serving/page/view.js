// The results of a run: the plane, the curves, both lists and the answers.

import { answer, stale } from "./answers.js";
import { chart } from "./chart.js";
import { byId, perFrame } from "./dom.js";
import { whenLit } from "./light.js";
import { list, goTo } from "./picks.js";
import { plane, spoken } from "./plane.js";
import { nameOf, percent, shortNameOf, source } from "./words.js";

const SIDES = ["nearest", "sift"];
const COLOURS = { nearest: "a", sift: "b" };
const NAMES = { nearest: "nearest" };
// The texts whose mean is one point of the line through the losses.
const WINDOW = 5;

export class View {
  constructor() {
    this.found = {};
    this.steps = {};
    this.panels = {};
    this.chosen = new Map();
    this.draw = perFrame(() => this.curves());
    whenLit((row) => this.readout(row));
  }

  get shows() {
    return !byId("shown").hidden;
  }

  // A new run: earlier answers are removed, earlier selections stay until they are replaced.
  begin(state, request) {
    this.steps = {};
    byId("welcome").hidden = true;
    byId("curl").textContent = request;
    byId("losses").hidden = true;
    byId("answers").hidden = true;
    stale(false);
  }

  selected(state, found) {
    this.method = nameOf(state.method);
    this.curve = clipped(shortNameOf(state.method));
    this.found = found;
    this.steps = {};
    byId("losses").hidden = true;
    byId("shown").hidden = false;
    this.lists();
    this.plane();
    this.curves();
    const byDefault = document.querySelector("#memory option[value='']");
    if (byDefault && !state.memory && found.sift.memory) byDefault.textContent = found.sift.memory;
  }

  lists() {
    const rows = Object.fromEntries(SIDES.map((side) => [side, new Set(this.found[side].hits.map((hit) => hit.row))]));
    for (const side of SIDES) {
      const others = rows[side === "sift" ? "nearest" : "sift"];
      byId(`picks-${side}`).replaceChildren(...list(side, side === "sift" ? this.method : "Nearest neighbour", this.found[side], others));
    }
  }

  plane() {
    this.chosen = new Map();
    for (const side of ["sift", "nearest"]) {
      this.found[side].hits.forEach((hit, at) => {
        if (!this.chosen.has(hit.row)) this.chosen.set(hit.row, { sift: [], nearest: [], text: hit.text, hit, name: this.method });
        this.chosen.get(hit.row)[side].push(at);
      });
    }
    if (this.forget) this.forget();
    this.forget = null;
    const given = this.found.sift.plane || this.found.nearest.plane;
    byId("why").classList.toggle("without-plane", !given);
    if (!given) return byId("plane").replaceChildren();
    const { picture, forget, missing } = plane(given, this.chosen, goTo);
    this.forget = forget;
    this.near = new Map(given.candidates.map((candidate) => [candidate.row, candidate.text]));
    const much = Number.isFinite(given.shown) ? ` (${percent(given.shown)} of the variance)` : "";
    this.caption = `Similar texts are close together, as far as a plane can show it${much}.`
      + (missing ? ` ${missing} of the picks are not among the candidates shown.` : "") + " Point at one to read it.";
    byId("plane").replaceChildren(picture);
    this.readout(null);
    return null;
  }

  readout(row) {
    const pick = row === null ? null : this.chosen.get(row);
    const other = row === null || pick || !this.near ? null : this.near.get(row);
    const said = pick ? `${spoken(pick)} (${source(pick.hit)})` : other ? `Candidate: ${other}` : this.caption || "";
    byId("readout").textContent = said;
    byId("readout").classList.toggle("faint", !pick && !other);
  }

  // During tuning, the part of the curve that has been reached is drawn over the rest.
  curves() {
    const uncertainty = [], losses = [];
    let most = 0;
    for (const side of SIDES.filter((one) => this.found[one])) {
      const all = this.found[side].uncertainty.map((left, at) => [at, (100 * left) / this.found[side].uncertainty[0]]);
      const steps = this.steps[side];
      const taken = steps ? Math.min(steps.length, all.length - 1) : all.length - 1;
      const name = side === "sift" ? this.curve : NAMES[side];
      uncertainty.push({
        name, colour: COLOURS[side], points: all.slice(0, taken + 1), faint: all, mark: steps && taken < all.length - 1 ? all[taken] : null,
      });
      most = Math.max(most, all.length - 1);
      if (steps && steps.length) losses.push({ name, colour: COLOURS[side], dots: steps.map((loss, at) => [at + 1, loss]), points: smoothed(steps) });
    }
    byId("uncertainty").replaceChildren(chart(uncertainty, { title: "Uncertainty left", xName: "texts", yName: "%", fromZero: true, most: 100 }));
    byId("losses").hidden = losses.length === 0;
    if (losses.length) byId("loss").replaceChildren(chart(losses, { title: "Loss", xName: "steps", yName: "nats a token", xMost: most }));
  }

  answers(state, sides) {
    byId("shown").hidden = false;
    byId("answers").hidden = false;
    byId("why").hidden = !sides.includes("sift");
    for (const side of Object.keys(COLOURS).concat("base")) byId(`answer-${side}`).parentElement.hidden = !sides.includes(side);
    this.panels = Object.fromEntries(sides.map((side) => [side, answer(side, state.prompt)]));
    stale(false);
  }

  // The handlers of one side's stream. Screen readers get the steps once per quarter.
  told(side, status) {
    const panel = this.panels[side];
    let quarter = 0;
    return {
      selected: (found, cached) => {
        panel.selected(cached);
        const { hits, selection } = found;
        const shown = this.found[side];
        if (shown && shown.hits.length === hits.length && shown.hits.every((hit, at) => hit.row === hits[at].row)) return;
        this.found[side] = { ...shown, hits, uncertainty: selection.uncertainty, explanation: null };
        this.lists();
        this.plane();
        this.draw();
      },
      step: (step, taken, planned) => {
        panel.step(taken, planned);
        (this.steps[side] ||= []).push(step.loss ?? NaN);
        this.draw();
        const now = planned ? Math.floor((4 * taken) / planned) : 0;
        if (now === quarter) return;
        quarter = now;
        status(`Tuning: step ${taken} of ${planned}.`);
      },
      learned: (trace, cached) => {
        panel.learned(trace, cached);
        if (cached && trace.steps && trace.steps.length) this.steps[side] = trace.steps.map((step) => step.loss ?? NaN);
        this.draw();
        status("Writing …");
      },
      said: (text, reason) => panel.said(text, reason),
      finished: (spent) => panel.finished(spent),
      failed: (words) => panel.failed(words),
    };
  }
}

function smoothed(losses) {
  return losses.map((_, at) => {
    const near = losses.slice(Math.max(0, at + 1 - WINDOW), at + 1).filter(Number.isFinite);
    return [at + 1, near.reduce((sum, loss) => sum + loss, 0) / near.length];
  });
}

const clipped = (name) => (name.length > 12 ? `${name.slice(0, 11)}…` : name);
