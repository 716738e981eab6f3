// The last minutes, up to an hour: small charts on one time axis, with what happened drawn into all.

import { byId, clock, h, milliseconds, number, svg, text } from "./dom.js";

const WIDTH = 600; // of the drawing; it is stretched to its place
const HEIGHT = 132;
const TOP = 14;
const BOTTOM = 18;
const DASHES = ["", "6 3", "2 3"];

const stacked = (name, unit, pick, series) => ({ name, unit, pick, series, stack: true });
const lines = (name, unit, pick, series) => ({ name, unit, pick, series, stack: false });
const log = (name, unit, pick, series) => ({ name, unit, pick, series, stack: false, log: true });

const CHARTS = [
  stacked("Requests per second", number, (p, s) => p.requests[s] ?? 0, [
    ["player", "player", 1], ["states", "states API", 3], ["other", "other", 6]]),
  stacked("Errors per second", number, (p, s) => p.errors[s] ?? 0, [
    ["failed", "500: broken here", 5], ["unavailable", "503: unavailable", 2],
    ["limited", "429: limited", 4], ["refused", "4xx: refused", 6]]),
  log("Latency", milliseconds, (p, s) => p.latency[s], [
    [0, "median", 1], [1, "p95", 2], [2, "p99", 5]]),
  stacked("Lookup outcomes per second", number, (p, s) => p.lookups[s] ?? 0, [
    ["session", "not asked: session", 7], ["hit", "hit", 3], ["miss", "miss", 6], ["stale", "stale", 1], ["ahead", "ahead", 4],
    ["garbage", "garbage", 2], ["unavailable", "no answer", 5]]),
  lines("Partitions read per load", number, (p, s) => p.partitions[s], [
    [0, "mean", 1], [1, "p99", 5]]),
  lines("Waiting for MySQL", number, (p) => p.waiting, [[0, "requests", 2]]),
];

let charts = null;
let points = [];
let live = null;
let events = [];
let moment = 0; // seconds before now
let span = 900; // seconds that are shown

// The points that are shown.
export const shown = () => points.filter((point) => live && point.at > live.at - span - 10);

// Calls back when another range is chosen.
export function onRange(changed) {
  byId("ranges").addEventListener("change", (event) => {
    span = Number(event.target.value);
    byId("moment").min = String(-span);
    choose(0);
    changed();
  });
}

export function begin() {
  points = [];
}

export function addPoints(more, keep) {
  points = points.concat(more);
  const oldest = points.length ? points[points.length - 1].at - keep - 10 : 0;
  while (points.length && points[0].at < oldest) points.shift();
}

export function setEvents(value) {
  events = value;
}

export function show(state) {
  live = state;
  charts ??= CHARTS.map(make);
  redraw();
}

function make(chart) {
  const series = chart.series.map(([key, name, colour], index) => {
    const value = h("b", {}, "–");
    const sample = chart.stack
      ? svg("rect", { width: 16, height: 10, class: `area c${colour}` })
      : svg("path", { d: "M0 5H16", class: `line c${colour}`, "stroke-dasharray": DASHES[index] });
    return { key, colour, value, element: h("span", { class: "key" }, svg("svg", { viewBox: "0 0 16 10", "aria-hidden": "true" }, sample), name, value), name };
  });
  const plot = svg("svg", { class: "plot", role: "img" });
  const element = h("figure", { class: "chart" },
    h("figcaption", { class: "chart-head" }, h("h3", {}, chart.name), ...series.map((s) => s.element)), plot);
  byId("charts").append(element);
  plot.addEventListener("pointermove", (event) => {
    const box = plot.getBoundingClientRect();
    choose(((event.clientX - box.left) / box.width - 1) * span);
  });
  plot.addEventListener("pointerleave", () => choose(0));
  return { ...chart, plot, parts: series };
}

function choose(ago) {
  moment = Math.max(-span, Math.min(0, Math.round(ago / 5) * 5));
  byId("moment").value = String(moment);
  redraw();
}

byId("moment").addEventListener("input", (event) => choose(Number(event.target.value)));

function redraw() {
  if (!live || document.hidden) return;
  const now = live.at;
  const drawn = shown();
  if (live.now) drawn.push({ at: now, ...live.now });
  const chosen = drawn.length ? nearest(drawn, now + moment) : null;
  const words = moment === 0 || !chosen ? "now" : `at ${clock(chosen.at)}`;
  text(byId("moment-note"), words);
  byId("moment").setAttribute("aria-valuetext", words);
  for (const chart of charts) draw(chart, drawn, now, moment === 0 ? drawn.at(-1) : chosen);
}

function nearest(list, at) {
  return list.reduce((best, point) => (Math.abs(point.at - at) < Math.abs(best.at - at) ? point : best));
}

const x = (at, now, width) => Math.max(0, Math.min(width, ((at - now) / span + 1) * width));

function draw(chart, shown, now, chosen) {
  // Drawn in pixels, so that text and strokes keep their shape.
  const width = Math.max(200, Math.round(chart.plot.getBoundingClientRect().width) || WIDTH);
  const values = chart.parts.map((part) => shown.map((point) => chart.pick(point, part.key) ?? null));
  const sums = shown.map((_, i) => values.reduce((sum, row) => sum + (row[i] ?? 0), 0));
  const highest = Math.max(0, ...(chart.stack ? sums : values.flat().map((v) => v ?? 0)));
  const objective = chart.log ? live.objective.latency : null;
  const [place, ticks] = chart.log ? decades(values.flat(), objective) : linear(highest);
  const y = (value) => TOP + (HEIGHT - TOP - BOTTOM) * (1 - place(value));
  chart.plot.setAttribute("viewBox", `0 0 ${width} ${HEIGHT}`);
  const children = [...marks(now, width)];
  for (const tick of ticks) {
    children.push(svg("line", { class: "grid-line", x1: 0, x2: width, y1: y(tick), y2: y(tick) }));
  }
  if (objective !== null) {
    children.push(svg("line", { class: "objective-line", x1: 0, x2: width, y1: y(objective), y2: y(objective) }),
      svg("text", { class: "tick objective-name", x: width - 3, y: y(objective) - 3 }, `objective ${chart.unit(objective)}`));
  }
  const places = shown.map((point) => x(point.at, now, width));
  if (highest > 0) children.push(...(chart.stack ? areas(chart, values, places, y) : curves(chart, values, places, y)));
  else children.push(svg("text", { class: "empty", x: width / 2, y: (TOP + HEIGHT - BOTTOM) / 2 + 4 }, values.flat().some((v) => v !== null) ? "none" : "nothing yet"));
  if (highest > 0) {
    for (const tick of ticks) {
      if (place(tick) > 0) children.push(svg("text", { class: "tick y", x: 3, y: y(tick) - 3 }, chart.unit(tick).replace(/\.0+ /, " ")));
    }
  }
  const every = span / (span > 900 ? 4 : span > 300 ? 3 : 5);
  for (let tick = Math.floor(now / every) * every; tick > now - span * 0.97; tick -= every) {
    children.push(svg("text", { class: "tick x", x: Math.min(x(tick, now, width), width - 16), y: HEIGHT - 4 }, clock(tick).slice(0, 5)));
  }
  if (chosen && moment !== 0) {
    const there = x(chosen.at, now, width);
    children.push(svg("line", { class: "crosshair", x1: there, x2: there, y1: TOP - 6, y2: HEIGHT - BOTTOM }));
  }
  chart.plot.replaceChildren(...children);
  const said = chart.parts.map((part) => {
    const value = chosen ? chart.unit(chart.pick(chosen, part.key)) : "–";
    text(part.value, value);
    return `${part.name} ${value}`;
  });
  chart.plot.setAttribute("aria-label", `${chart.name}: ${said.join(", ")}; highest ${chart.unit(highest)}`);
}

// What happened, as bands and lines behind every chart.
function marks(now, width) {
  const found = [];
  for (const event of events) {
    const end = event.until ?? now;
    if (end < now - span) continue;
    const { level } = event;
    const [from, to] = [x(event.at, now, width), x(end, now, width)];
    const parts = [svg("title", {}, `${clock(event.at)} ${event.text}`)];
    if (end > event.at) {
      parts.push(svg("rect", { class: `band ${level}`, x: from, y: TOP - 6, width: Math.max(2, to - from), height: HEIGHT - BOTTOM - TOP + 6 }));
    }
    parts.push(svg("line", { class: `edge ${level}`, x1: from, x2: from, y1: TOP - 6, y2: HEIGHT - BOTTOM }));
    // Shapes say what colours say: a triangle for a fault, a diamond for what somebody did.
    parts.push(level === "note"
      ? svg("path", { class: `flag ${level}`, d: `M${from} ${TOP - 13}l4.5 4.5l-4.5 4.5l-4.5 -4.5Z` })
      : svg("path", { class: `flag ${level}`, d: `M${from - 4.5} ${TOP - 13}h9l-4.5 8Z` }));
    found.push(svg("g", {}, ...parts));
  }
  return found;
}

function areas(chart, values, places, y) {
  const base = places.map(() => 0);
  return chart.parts.map((part, row) => {
    const under = base.map((value, i) => `${places[i].toFixed(1)} ${y(value).toFixed(1)}`).reverse();
    values[row].forEach((value, i) => { base[i] += value ?? 0; });
    if (!values[row].some((value) => value)) return null;
    const over = base.map((value, i) => `${places[i].toFixed(1)} ${y(value).toFixed(1)}`);
    // The edge is drawn where there is something below it.
    const edge = over.map((place, i) => `${values[row][i] ? "L" : "M"}${place}`).join("");
    return svg("g", {},
      svg("path", { class: `area c${part.colour}`, d: `M${over.join("L")}L${under.join("L")}Z` }),
      svg("path", { class: `line c${part.colour}`, d: `M${edge.slice(1)}` }));
  }).filter(Boolean);
}

function curves(chart, values, places, y) {
  return chart.parts.map((part, row) => {
    let path = "";
    let pen = "M";
    values[row].forEach((value, i) => {
      if (value === null) { pen = "M"; return; }
      // A point alone is a short line, or nobody would see it.
      path += `${pen}${places[i].toFixed(1)} ${y(value).toFixed(1)}${pen === "M" ? "h1" : ""}`;
      pen = "L";
    });
    return svg("path", { class: `line c${part.colour}`, d: path, "stroke-dasharray": DASHES[row] });
  });
}

// Where a value stands on a scale from 0 to 1, and the values that it names.
function linear(highest) {
  const top = ceiling(highest);
  return [(value) => value / top, [0, top / 2, top]];
}

// A scale of tenfold steps: 2 ms and 2 s are both seen.
function decades(values, objective) {
  const known = values.filter((value) => value > 0);
  const low = Math.max(-1, Math.floor(Math.log10(Math.min(objective, ...known))));
  const high = Math.max(low + 1, Math.ceil(Math.log10(Math.max(objective, ...known))));
  const ticks = Array.from({ length: high - low + 1 }, (_, step) => 10 ** (low + step));
  return [(value) => Math.max(0, (Math.log10(value) - low) / (high - low)), ticks];
}

// A round number at or above the highest value.
function ceiling(highest) {
  if (highest <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(highest));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= highest) ?? highest;
}

