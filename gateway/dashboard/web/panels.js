// The verdict, MySQL, partitions, workers and events.

import { eventLevel } from "./charts.js";
import { byId, bytes, clock, data, dayName, dayStart, duration, facts, h, keyed, milliseconds, number, percent, since, text } from "./dom.js";

const sum = (values) => Object.values(values ?? {}).reduce((a, b) => a + b, 0);

// --- is it well, and if not, which part and since when

const LEVELS = { ready: "ok", degraded: "warn", unavailable: "bad", draining: "warn" };
const HEADLINES = {
  ready: "All is well",
  degraded: "Degraded, and serving",
  unavailable: "Not serving",
  draining: "Taken out",
};
const MARKS = { ok: "✓", warn: "!", bad: "✕" };

export function verdict(state, partitions, others) {
  const level = LEVELS[state.status] ?? "bad";
  data(byId("verdict"), "level", level);
  text(byId("verdict-mark"), MARKS[level]);
  text(byId("headline"), HEADLINES[state.status] ?? state.status);
  const now = state.now;
  const traffic = state.status === "unavailable" ? "clients get 503 with Retry-After; nothing acknowledged is lost" : now
    ? `${number(sum(now.requests))} requests/s, p99 ${milliseconds(now.latency[2])}, ${failing(now)}`
    : "no numbers yet";
  text(byId("subline"), `${since(state.since, state.at)} · ${traffic}`);
  document.title = `${level === "ok" ? "" : `${HEADLINES[state.status] ?? state.status} · `}Tapedeck ${state.gateway}`;
  keyed(byId("reasons"), state.reasons, (reason) => reason.text.split(": ")[0], () => {
    const [what, when] = [h("span"), h("span")];
    return {
      element: h("li", {}, what, when),
      update: (reason, now) => { text(what, sentence(reason.text)); text(when, since(reason.since, now)); },
    };
  }, state.at);
  keyed(byId("parts"), [gatewayPart(state), ringPart(state), mysqlPart(state), partitionsPart(state, partitions), ...othersPart(others)], (part) => part.name, ({ name }) => {
    const badge = h("span", { class: "badge" });
    const line = h("p");
    return {
      element: h("div", { class: "part" }, h("b", {}, name, badge), line),
      update: (part) => { data(badge, "level", part.level); text(badge, part.word); text(line, part.line); },
    };
  });
}

const sentence = (words) => words.charAt(0).toUpperCase() + words.slice(1);

function failing(now) {
  const failed = (now.errors.failed ?? 0) + (now.errors.unavailable ?? 0);
  return failed ? `${number(failed)} failing/s` : "none failing";
}

function gatewayPart(state) {
  const gone = state.workers.filter((worker) => worker.status === "missing");
  const failed = (state.now?.errors.failed ?? 0) + (state.now?.errors.unavailable ?? 0);
  const many = state.workers.length === 1 ? "1 worker" : `${state.workers.length} workers`;
  const busy = `${many}, ${number(state.now?.in_flight ?? 0)} requests in flight`;
  if (gone.length) return { name: "Gateway", level: "warn", word: "a worker is away", line: `Worker ${gone.map((w) => w.worker).join(", ")} does not answer` };
  if (state.status === "unavailable") return { name: "Gateway", level: "bad", word: "answers 503", line: busy };
  if (failed) return { name: "Gateway", level: "warn", word: "requests fail", line: `${number(failed)} /s of ${number(sum(state.now.requests))} /s; ${busy}` };
  return { name: "Gateway", level: "ok", word: "well", line: busy };
}

function othersPart(others) {
  if (!others.length) return [];
  const ill = others.filter((one) => one.problem || one.status !== "ready");
  if (!ill.length) return [{ name: "Other gateways", level: "ok", word: "well", line: `${others.length} of ${others.length} ready` }];
  return [{
    name: "Other gateways", level: "warn", word: `${ill.length} of ${others.length} not well`,
    line: ill.map((one) => `${one.url}: ${one.problem ?? one.status}`).join("; "),
  }];
}

function ringPart(state) {
  const nodes = state.ring?.nodes;
  if (!nodes) return { name: "Lookup ring", level: "bad", word: "unknown", line: "No worker can say" };
  const out = nodes.filter((node) => node.state !== "live");
  if (!out.length) return { name: "Lookup ring", level: "ok", word: "well", line: `${nodes.length} of ${nodes.length} nodes live` };
  const first = out[0];
  const at = first.since ? Date.parse(first.since) / 1000 : null;
  return {
    name: "Lookup ring",
    level: "warn",
    word: `${out.length} of ${nodes.length} out`,
    line: `${out.map((node) => node.name).join(", ")} ${since(at, state.at)}. Nobody sees an error; loads read more partitions`,
  };
}

function mysqlPart(state) {
  const mysql = state.mysql;
  if (!mysql) return { name: "MySQL", level: "bad", word: "unknown", line: "No worker can say" };
  if (mysql.split) return { name: "MySQL", level: "bad", word: "two primaries", line: mysql.problem };
  if (!mysql.primary) {
    const lost = mysql.lost_for;
    const waits = lost !== null && lost <= state.deadline;
    return {
      name: "MySQL", level: waits ? "warn" : "bad", word: waits ? "fails over" : "no primary",
      line: `${lost === null ? "never reached" : `for ${duration(lost)}`}; ${number(mysql.waiting)} waiting. ${sentence(mysql.problem ?? "")}`,
    };
  }
  if (mysql.redundant === false) return { name: "MySQL", level: "warn", word: "not redundant", line: sentence(mysql.redundancy ?? "") };
  return { name: "MySQL", level: "ok", word: "well", line: `${mysql.primary} is the primary${mysql.redundancy ? `; ${mysql.redundancy}` : ""}` };
}

function partitionsPart(state, partitions) {
  if (!partitions) {
    const asked = state.mysql?.primary;
    return { name: "Partitions", level: "", word: asked ? "asking" : "unknown", line: asked ? "" : "MySQL cannot be asked" };
  }
  const late = partitions.filter((p) => dayStart(p.drops_on) + state.drop_after + 3600 < state.at);
  const next = nextDrop(state, partitions);
  if (late.length) return { name: "Partitions", level: "warn", word: "not pruned", line: `${late.length} past retention` };
  return { name: "Partitions", level: "ok", word: "well", line: next ? `${partitions.length} kept; ${dayName(next.day)} goes on ${dayName(next.drops_on)}` : "none yet" };
}

function nextDrop(state, partitions) {
  return [...partitions].sort((a, b) => (a.drops_on < b.drops_on ? -1 : 1))[0] ?? null;
}

// --- MySQL

const ROLES = { primary: ["ok", "primary"], standby: ["ok", "standby"], fenced: ["bad", "fenced off"], unknown: ["bad", "no answer"] };

export function mysql(state) {
  const pair = state.mysql;
  if (!pair) return;
  text(byId("mysql-note"), `generation ${pair.generation}`);
  const rank = { primary: 0, fenced: 1, unknown: 2, standby: 3 };
  const hosts = pair.hosts.map((host) => ({ ...host, key: host.address }))
    .sort((a, b) => rank[a.role] - rank[b.role]);
  const items = hosts.length > 1 ? [hosts[0], { key: "wire" }, ...hosts.slice(1)] : hosts;
  keyed(byId("hosts"), items, (host) => host.key, (host) => (host.key === "wire" ? makeWire(state) : makeHost()));
  wire(pair);
  queue(state, pair);
  const now = state.now;
  facts(byId("mysql-facts"), [
    ["connections", number(now?.connections)],
    ["loads /s", number(now?.loads)],
    ["saves /s", number(now?.saves)],
    ["conflicts /s", number(now?.conflicts)],
    ["errors /s", number(sum(now?.mysql_errors))],
  ]);
}

function makeHost() {
  const [address, badge, line] = [h("b"), h("span", { class: "badge" }), h("p")];
  const element = h("div", { class: "host" }, h("div", { class: "host-head" }, address, badge), line);
  return {
    element,
    update: (host) => {
      const [level, word] = ROLES[host.role] ?? ["bad", host.role];
      data(element, "level", level);
      data(badge, "level", level);
      text(address, host.address);
      text(badge, word);
      text(line, host.role === "fenced" ? "Writable, and not believed: its generation is old, or two claim the same" : host.error ?? "");
    },
  };
}

function makeWire() {
  return { element: h("div", { class: "wire" }), update: () => {} };
}

function wire(pair) {
  const line = byId("hosts").querySelector(".wire");
  if (!line) return;
  data(line, "level", pair.redundant === false || !pair.primary ? "warn" : pair.redundant ? "ok" : null);
  text(line, !pair.primary ? "✕ nobody commits" : pair.redundant === false ? `✕ not redundant: ${pair.redundancy}`
    : pair.redundant ? "↓ acknowledges every commit" : `↓ ${pair.redundancy ?? "acknowledgement not asked for"}`);
}

function queue(state, pair) {
  const box = byId("queue");
  if (!box.firstChild) {
    box.append(h("div", { class: "queue-head" }, h("span", {}, "Waiting queue"), h("b")), h("div", { class: "meter" }, h("i")), h("p", { class: "muted" }));
  }
  const [head, meter, line] = box.children;
  const waits = pair.waiting;
  const stuck = !pair.primary;
  text(head.lastChild, `${number(waits)} waiting`);
  meter.firstChild.style.width = `${Math.min(100, 100 * Math.sqrt(waits / 1024))}%`;
  data(meter, "level", stuck ? "bad" : waits > 64 ? "warn" : null);
  text(line, stuck ? `A request waits for a primary for ${duration(state.deadline)} at most, then it gets 503` : "Requests that wait for a connection or for a primary");
}

// --- partitions

const DAYS = [
  ["", "earlier day"], ["today", "today"], ["tomorrow", "tomorrow's, ready"],
  ["next", "goes next"], ["past", "past retention"],
];

export function partitions(state, days) {
  if (!days) return;
  const box = byId("partitions");
  const today = new Date(state.at * 1000).toISOString().slice(0, 10).replaceAll("-", "");
  const highest = Math.max(1, ...days.map((day) => day.bytes));
  const next = nextDrop(state, days);
  if (!box.firstChild) {
    box.append(
      h("div", { class: "days", role: "img" }),
      h("div", { class: "day-names" }, h("span"), h("span")),
      h("p", { class: "legend-line" }),
      h("dl", { class: "facts partitions-facts" }),
      h("details", {}, h("summary", {}, "All of them as a table"), h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Table of day partitions" }, h("table"))));
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
    const title = h("span", { class: "day" }, bar);
    return {
      element: title,
      update: (day, { kindOf, highest }) => {
        data(title, "kind", kindOf(day));
        bar.style.height = day.absent ? "0" : `${Math.max(3, 100 * (day.bytes / highest))}%`;
        title.title = day.absent ? `${dayName(day.day)}: nothing was written` : `${dayName(day.day)}: ${number(day.rows)} rows, ${bytes(day.bytes)}, goes on ${dayName(day.drops_on)}`;
      },
    };
  }, { kindOf, highest });
  row.setAttribute("aria-label", `${days.length} day partitions, the largest ${bytes(highest)}`);
  text(names.firstChild, dayName(slots[0].day));
  text(names.lastChild, dayName(slots.at(-1).day));
  text(byId("partitions-note"), `${days.length} of ${state.retention + 2} · a state is kept for ${state.retention} days after its last write`);
  const kinds = new Set(slots.map(kindOf));
  keyed(legend, DAYS.filter(([kind]) => kinds.has(kind)), ([kind]) => kind, ([kind, words]) => ({
    element: h("span", {}, h("i", { class: "swatch day-swatch", "data-kind": kind }), words),
    update: () => {},
  }));
  const rows = days.reduce((total, day) => total + day.rows, 0);
  const size = days.reduce((total, day) => total + day.bytes, 0);
  const due = next ? dayStart(next.drops_on) + state.drop_after : null;
  facts(list, [
    ["rows", number(rows)],
    ["bytes", bytes(size)],
    ["written today", number(days.find((day) => day.day === today)?.rows ?? 0)],
    ["goes next", next ? dayName(next.day) : "–"],
    ["when", due === null ? "–" : due < state.at ? "now" : `${dayName(next.drops_on)} ${clock(due).slice(0, 5)} UTC (in ${duration(due - state.at)})`],
    ...lookupLife(state),
  ]);
  table(more.querySelector("table"), ["day", "rows", "bytes", "goes on", ""], days.map((day) => [
    dayName(day.day), number(day.rows), bytes(day.bytes), dayName(day.drops_on),
    Object.fromEntries(DAYS.slice(1))[kindOf(day)] ?? ""]));
}

// The days that may have a partition, oldest first: those of the retention, tomorrow, and what is
// left of older ones.
function slotsOf(state, days) {
  const name = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 10).replaceAll("-", "");
  const names = new Set(days.map((day) => day.day));
  if (state.retention <= 120) {
    for (let back = -1; back <= state.retention; back += 1) names.add(name(state.at - back * 86400));
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

// Written into the cells that are there already: what has the focus, or is selected, keeps it.
function table(element, heads, rows) {
  if (!element.tHead) {
    element.append(h("thead", {}, h("tr", {}, ...heads.map((head) => (head ? h("th", { scope: "col" }, head) : h("td"))))), h("tbody"));
  }
  const body = element.tBodies[0];
  while (body.rows.length > rows.length) body.lastChild.remove();
  rows.forEach((cells, index) => {
    const row = body.rows[index] ?? body.appendChild(h("tr", {}, ...cells.map(() => h("td"))));
    cells.forEach((cell, column) => {
      const there = row.cells[column];
      if (typeof cell === "string") text(there, cell);
      else if (there.firstChild?.href !== cell.href || there.textContent !== cell.textContent) there.replaceChildren(cell);
    });
  });
}

// --- workers

export function workers(state, others) {
  const one = state.workers.length === 1;
  text(byId("workers-note"), `${one ? "one process" : `${state.workers.length} processes on one port`}${others.length ? "" : "; this page shows this gateway alone (admin.peers names others)"}`);
  const rows = state.workers.map((worker) => [
    String(worker.worker), worker.status, number(worker.requests), number(worker.errors),
    milliseconds(worker.p99), number(worker.in_flight), percent(worker.cpu), bytes(worker.memory)]);
  if (!one && state.now) {
    const of = (key) => state.workers.reduce((total, worker) => total + (worker[key] ?? 0), 0);
    rows.push(["all", state.status, number(of("requests")), number(of("errors")), milliseconds(state.now.latency[2]),
      number(of("in_flight")), percent(of("cpu")), bytes(of("memory"))]);
  }
  table(byId("workers"), ["worker", "status", "requests/s", "errors/s", "p99", "in flight", "CPU", "memory"], rows);
}

// --- other gateways

export function gateways(state, others) {
  byId("gateways-card").hidden = !others.length;
  if (!others.length) return;
  const now = state.now;
  const own = {
    url: "", gateway: `${state.gateway} (this one)`, status: state.status, workers: state.workers.length,
    requests: sum(now?.requests), failing: (now?.errors.failed ?? 0) + (now?.errors.unavailable ?? 0),
    latency: now?.latency ?? [null, null, null],
    out: (state.ring?.nodes ?? []).filter((node) => node.state !== "live").map((node) => node.name),
    generation: state.ring?.generation, primary: state.mysql?.primary,
  };
  const all = [own, ...others];
  const well = all.filter((one) => !one.problem);
  const total = (key) => well.reduce((count, one) => count + (one[key] ?? 0), 0);
  const worst = well.map((one) => one.latency?.[2]).filter((value) => value !== null && value !== undefined);
  const differ = (key) => new Set(well.map((one) => one[key])).size > 1;
  text(byId("gateways-note"), [
    `${well.length} of ${all.length} answer`,
    differ("primary") ? "they do not agree on the MySQL primary" : "",
    differ("generation") ? "their rings have different generations: each counts its own reloads" : "",
  ].filter(Boolean).join(" · "));
  const rows = all.map((one) => (one.problem
    ? [one.url, one.problem, "–", "–", "–", "–", "–", "–"]
    : [one.url ? link(one) : one.gateway, one.status, number(one.workers), number(one.requests), number(one.failing),
      milliseconds(one.latency?.[2]), one.out?.join(", ") || "none", one.primary ?? "none"]));
  rows.push(["all", "", number(total("workers")), number(total("requests")), number(total("failing")),
    worst.length ? `${milliseconds(Math.max(...worst))} at worst` : "–", "", ""]);
  table(byId("gateways"), ["gateway", "status", "workers", "requests/s", "failing/s", "p99", "nodes out", "primary"], rows);
}

// Each gateway has its own page. Addresses come from the configuration, which takes http alone.
function link(one) {
  return h("a", { href: `${one.url.replace(/\/$/, "")}/`, rel: "noreferrer" }, one.gateway);
}

// --- events

const WORDS = {
  ejected: "ejection", mysql_down: "no primary", not_redundant: "not redundant", split: "split",
  failover: "failover", reload: "reload", worker: "worker", ring: "ring",
  draining: "taken out",
};

export function events(state, list) {
  const box = byId("events");
  keyed(box, [...list].reverse().slice(0, 60), (event) => event.id, (event) => {
    const badge = h("span", { class: "badge" }, WORDS[event.kind] ?? event.kind);
    data(badge, "level", eventLevel(event));
    const length = h("span", { class: "muted" });
    return {
      element: h("li", {}, h("time", {}, clock(event.at)), h("div", {}, badge, h("span", { class: "text" }, event.text), " ", length)),
      update: ({ at, until }, now) => text(length, until === null ? `· for ${duration(now - at)} so far`
        : until > at ? `· lasted ${duration(until - at)}` : ""),
    };
  }, state.at);
  if (!list.length && !box.childElementCount) box.append(h("li", { class: "nothing" }, "Nothing. That is good."));
  if (list.length) box.querySelector(".nothing")?.remove();
}
