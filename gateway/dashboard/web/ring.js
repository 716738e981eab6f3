// The ring as a ring: one lane a node, its arcs where its keys lie.

import { byId, bytes, data, facts, h, keyed, milliseconds, number, percent, since, svg, text } from "./dom.js";

const GAP = 14; // degrees left open at the top, for the lanes' numbers
const OUTER = 152;
const INNER = 70;

let opened = false;
let outline = null;
let drawn = "";

const level = (node) => (node.state === "live" ? "ok" : "bad");
const word = (node) => (node.state === "ejected" ? "out of the ring" : node.state);

byId("ring-more").addEventListener("click", () => {
  opened = !opened;
  byId("ring-more").setAttribute("aria-expanded", String(opened));
  data(byId("ring-card"), "size", opened ? "big" : "small");
});

export function setOutline(value) {
  outline = value;
}

export function show(state) {
  const ring = state.ring;
  if (!ring) return;
  const live = ring.nodes.filter((node) => node.state === "live").length;
  byId("ring-more").hidden = live < ring.nodes.length;
  data(byId("ring-card"), "size", opened || live < ring.nodes.length ? "big" : "small");
  text(byId("ring-note"), `${live} of ${ring.nodes.length} live · generation ${ring.generation}`);
  keyed(byId("nodes"), ring.nodes.map((node, index) => ({ node, index })), (n) => n.node.name, makeNode);
  for (const { part, node } of parts.values()) part(node, state);
  legend(ring);
  const now = JSON.stringify([ring.nodes.map((n) => [n.name, n.state]), outline?.owners, outline?.serving]);
  if (now !== drawn) {
    drawn = now;
    draw(ring, live);
  }
}

const parts = new Map();

function makeNode({ node: first }) {
  const number_ = h("span", { class: "number", "aria-hidden": "true" });
  const badge = h("span", { class: "badge" });
  const where = h("span", { class: "muted" });
  const why = h("p", { class: "node-why" });
  const figures = h("dl", { class: "figures" });
  const element = h("li", { class: "node", tabindex: "0" },
    h("div", { class: "node-head" }, number_, h("span", { class: "name" }, first.name), badge, where), why, figures);
  const pick = (on) => () => highlight(on ? first.name : null);
  element.addEventListener("pointerenter", pick(true));
  element.addEventListener("pointerleave", pick(false));
  element.addEventListener("focus", pick(true));
  element.addEventListener("blur", pick(false));
  const entry = { node: first, part: null };
  parts.set(first.name, entry);
  entry.part = (node, state) => {
    data(element, "level", level(node));
    data(badge, "level", level(node));
    text(badge, word(node));
    text(where, `${node.address}${node.weight === 1 ? "" : ` · weight ${node.weight}`}`);
    text(why, reason(node, state));
    const numbers = node.numbers ?? {};
    facts(figures, [
      ["share", percent(node.share)],
      ["keys", number(node.capacity?.keys)],
      ["memory", memory(node.capacity)],
      ["median", milliseconds(numbers.p50)],
      ["p99", milliseconds(numbers.p99)],
      ["failures /s", number(numbers.failed ?? 0)],
    ]);
  };
  return {
    element,
    update: ({ node, index }) => {
      entry.node = node;
      text(number_, String(index + 1));
    },
  };
}

function memory(capacity) {
  if (!capacity) return "–";
  const { memory_bytes: used, maxmemory_bytes: limit } = capacity;
  return limit ? `${bytes(used)} of ${bytes(limit)}` : bytes(used);
}

function reason(node, state) {
  if (node.state === "live") return "";
  const at = node.since ? Date.parse(node.since) / 1000 : null;
  const probe = node.next_probe ? Math.max(0, Date.parse(node.next_probe) / 1000 - state.at) : null;
  const workers = node.out_in?.length && state.workers.length > node.out_in.length
    ? ` · out in worker ${node.out_in.join(", ")} only` : "";
  return [
    `${(node.reason ?? "ejected").replace(/\.$/, "")}, ${since(at, state.at)}`,
    probe === null ? "" : ` · next probe ${probe < 1 ? "now" : `in ${Math.round(probe)} s`}`,
    workers,
  ].join("");
}

function legend(ring) {
  const out = ring.nodes.some((node) => node.state !== "live");
  const wanted = [["ok", "keys of a live node"]];
  if (out) wanted.push(["bad", "keys of a node that is out"], ["takes", "who serves them meanwhile"]);
  keyed(byId("ring-legend"), wanted, ([kind]) => kind, ([kind, words]) => ({
    element: h("span", {}, h("i", { class: `swatch ${kind}` }), words),
    update: () => {},
  }));
}

// --- the picture

function highlight(name) {
  const picture = byId("ring-picture");
  data(picture, "picked", name === null ? null : "yes");
  for (const lane of picture.querySelectorAll(".lane-group")) {
    data(lane, "picked", lane.dataset.node === name ? "yes" : null);
  }
}

function at(radius, fraction) {
  const angle = ((GAP / 2 + fraction * (360 - GAP)) / 180) * Math.PI;
  return `${(160 + radius * Math.sin(angle)).toFixed(2)} ${(160 - radius * Math.cos(angle)).toFixed(2)}`;
}

function segment(inner, outer, from, to) {
  const large = (to - from) * (360 - GAP) > 180 ? 1 : 0;
  return `M${at(outer, from)}A${outer} ${outer} 0 ${large} 1 ${at(outer, to)}L${at(inner, to)}A${inner} ${inner} 0 ${large} 0 ${at(inner, from)}Z`;
}

// The stretches of a row of places for which `is` holds, as one path.
function arcs(places, is, inner, outer) {
  let path = "";
  let start = null;
  for (let place = 0; place <= places; place += 1) {
    const inside = place < places && is(place);
    if (inside && start === null) start = place;
    if (!inside && start !== null) {
      path += segment(inner, outer, start / places, place / places);
      start = null;
    }
  }
  return path;
}

function draw(ring, live) {
  const nodes = ring.nodes;
  const width = Math.min(26, (OUTER - INNER) / nodes.length);
  const picture = svg("svg", { viewBox: "0 0 320 320", role: "img", "aria-label": summary(ring) });
  picture.append(svg("defs", {},
    svg("pattern", { id: "hatch", width: 5, height: 5, patternUnits: "userSpaceOnUse", patternTransform: "rotate(45)" },
      svg("rect", { width: 5, height: 5, class: "hatch-bg" }), svg("path", { d: "M0 0V5", class: "hatch-line" })),
    svg("pattern", { id: "dots", width: 4, height: 4, patternUnits: "userSpaceOnUse" },
      svg("rect", { width: 4, height: 4, class: "dots-bg" }), svg("circle", { cx: 2, cy: 2, r: 1.1, class: "dots-dot" }))));
  nodes.forEach((node, index) => {
    const outer = OUTER - index * width;
    const inner = outer - Math.max(width - 4, width * 0.7);
    const group = svg("g", { class: "lane-group" }, svg("title", {}, `${node.name}: ${word(node)}`));
    group.dataset.node = node.name;
    const lane = svg("path", { d: segment(inner, outer, 0, 1), class: "lane" });
    lane.style.fill = "var(--sunk)";
    group.append(lane);
    if (outline) {
      const { owners, serving } = outline;
      const own = svg("path", { class: "arc", d: arcs(owners.length, (p) => owners[p] === node.name, inner, outer) });
      data(own, "level", level(node));
      group.append(own, svg("path", {
        class: "arc takes",
        d: arcs(owners.length, (p) => serving[p] === node.name && owners[p] !== node.name, inner, outer),
      }));
    }
    if (width > 9) {
      group.append(svg("text", { x: 160, y: 160 - (outer + inner) / 2, class: "lane-number" }, String(index + 1)));
    }
    picture.append(group);
  });
  picture.append(
    svg("text", { x: 160, y: 162, class: "ring-centre" }, `${live} / ${nodes.length}`),
    svg("text", { x: 160, y: 181, class: "ring-under" }, "nodes live"));
  byId("ring-picture").replaceChildren(picture);
}

function summary(ring) {
  return `The ring: ${ring.nodes.map((node) => `${node.name} ${percent(node.share)}, ${word(node)}`).join("; ")}`;
}

export function forget(names) {
  for (const name of [...parts.keys()]) if (!names.has(name)) parts.delete(name);
}

