// The day partitions: what they hold, when they go, and which of them are sealed.

import { byId, bytes, clock, data, dayName, dayStart, facts, h, keyed, number, table, text } from "./dom.js";

const DAYS = [
  ["", "earlier day"], ["today", "today"], ["tomorrow", "tomorrow's, ready"],
  ["next", "goes next"], ["past", "past retention"],
];

export function show(state, days) {
  if (!days) return;
  const box = byId("days");
  const today = dayOf(state.at);
  const highest = Math.max(1, ...days.map((day) => day.bytes));
  const next = days.reduce((first, day) => (first === null || day.drops_on < first.drops_on ? day : first), null);
  if (!box.firstChild) {
    box.append(
      h("div", { class: "days", role: "img" }),
      h("div", { class: "day-names" }, h("span"), h("span")),
      h("p", { class: "legend-line" }),
      h("dl", { class: "facts" }),
      h("details", {}, h("summary", {}, "All of them as a table"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of days" }, h("table"))));
  }
  const [row, names, legend, list, more] = box.children;
  const there = new Map(days.map((day) => [day.day, day]));
  const slots = slotsOf(state, days).map((name) => there.get(name) ?? { day: name, absent: true });
  const kindOf = (day) => {
    if (day.absent) return "none";
    if (dayStart(day.drops_on) < state.at) return "past";
    if (day.day === today) return "today";
    if (day.day > today) return "tomorrow";
    return day === next ? "next" : "";
  };
  keyed(row, slots, (day) => day.day, () => {
    const bar = h("i");
    const column = h("span", { class: "day" }, bar);
    return {
      element: column,
      update: (day, { kindOf, highest }) => {
        data(column, "kind", kindOf(day));
        data(column, "seal", day.absent ? null : sealOf(day, today));
        bar.style.height = day.absent ? "0" : `${Math.max(3, 100 * (day.bytes / highest))}%`;
        column.title = day.absent ? `${dayName(day.day)}: nothing was written` : `${dayName(day.day)}: ${number(day.rows)} rows, ${bytes(day.bytes)}, goes on ${dayName(day.drops_on)}, ${sealOf(day, today)}`;
      },
    };
  }, { kindOf, highest });
  row.setAttribute("aria-label", `${days.length} day partitions, the largest ${bytes(highest)}`);
  text(names.firstChild, dayName(slots[0].day));
  text(names.lastChild, dayName(slots.at(-1).day));
  text(byId("days-note"), `${days.length} of ${state.retention + 2} · a state is kept for ${state.retention} days after its last write`);
  const kinds = new Set(slots.map(kindOf));
  const seals = [["sealed", "sealed: a filter says what is not there"]].filter(() => days.some((day) => day.sealed));
  keyed(legend, [...DAYS.filter(([kind]) => kinds.has(kind)), ...seals], ([kind]) => kind, ([kind, words]) => ({
    element: h("span", {}, h("i", { class: "swatch day-swatch", "data-kind": kind }), words),
    update: () => {},
  }));
  const total = (key) => days.reduce((sum, day) => sum + day[key], 0);
  const due = next ? dayStart(next.drops_on) + state.drop_after : null;
  facts(list, [
    ["rows", number(total("rows"))],
    ["bytes", bytes(total("bytes"))],
    ["written today", number(there.get(today)?.rows ?? 0)],
    ["goes next", next ? dayName(next.day) : "–"],
    ["when", due === null ? "–" : due < state.at ? "now" : `${dayName(next.drops_on)} ${clock(due).slice(0, 5)} UTC`],
    ...sealing(state, days, today),
    ...lookupLife(state),
  ]);
  table(more.querySelector("table"), ["day", "rows", "bytes", "goes on", "filter", "read in vain", ""], days.map((day) => [
    dayName(day.day), number(day.rows), bytes(day.bytes), dayName(day.drops_on), day.sealed ? bytes(day.filter_bytes) : sealOf(day, today),
    number(day.in_vain), Object.fromEntries(DAYS.slice(1))[kindOf(day)] ?? ""]));
}

const dayOf = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10).replaceAll("-", "");

function sealOf(day, today) {
  if (day.sealed) return "sealed";
  return day.sealing ? "being sealed" : day.day >= today ? "open" : "not sealed";
}

// How far sealing is, and what the filters take.
function sealing(state, days, today) {
  const over = days.filter((day) => day.day < today);
  const sealed = over.filter((day) => day.sealed);
  const now = over.filter((day) => day.sealing && !day.sealed);
  const filters = state.now?.filters ?? {};
  return [
    ["days sealed", over.length ? `${sealed.length} of ${over.length} that are over` : "none is over yet"],
    ["being sealed", now.length ? `${now.map((day) => dayName(day.day)).join(", ")}${filters.keys ? `, ${number(filters.keys)} keys/s` : ""}`
      : sealed.length < over.length ? "none at the moment" : "none is due"],
    ["filters in memory", `${bytes(filters.bytes)} of ${bytes(state.filter_limit)}${filters.without ? `; ${filters.without} days have no room` : ""}`],
    ["read in vain", number(days.reduce((sum, day) => sum + day.in_vain, 0))],
  ];
}

// The days that may have a partition, oldest first: those of the retention, tomorrow, and what is
// left of older ones.
function slotsOf(state, days) {
  const names = new Set(days.map((day) => day.day));
  if (state.retention <= 120) {
    for (let back = -1; back <= state.retention; back += 1) names.add(dayOf(state.at - back * 86400));
  }
  return [...names].sort();
}

// Whether entries live as long as the states that they point to.
function lookupLife(state) {
  const known = (state.ring?.nodes ?? []).map((node) => node.capacity).filter(Boolean);
  if (!known.length) return [];
  const evicted = known.reduce((total, one) => total + one.evicted_last_hour, 0);
  return [
    ["lookups evicted", evicted ? `${number(evicted)} in the last hour: they live shorter than states` : "none in the last hour"],
  ];
}
