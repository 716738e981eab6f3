// Is it well, and if not, which part and since when.

import { ago, byId, data, dayName, dayStart, duration, failing, h, keyed, milliseconds, number, percent, sentence, since, sum, text } from "./dom.js";
import { budgets } from "./objective.js";

const COMMITS_WITHIN = 3; // seconds; without requests there is a commit each second

const STATUSES = {
  ready: ["ok", "All is well"],
  degraded: ["warn", "Degraded, and serving"],
  unavailable: ["bad", "Not serving"],
  draining: ["warn", "Taken out"],
};
const MARKS = { ok: "✓", warn: "!", bad: "✕", unknown: "?" };
// What listeners feel, though the gateway takes requests.
const FELT = {
  failover: "Degraded: changes wait while MySQL fails over",
  disk: "Degraded: MySQL's disk is full",
  connections: "Degraded: MySQL takes no more connections",
  starved: "Degraded: this gateway gets too little CPU time",
  errors: "Degraded: requests fail",
  slow: "Degraded: requests are slow",
};

// The level and the headline. "And serving" is said only while changes are seen to commit.
function judge({ state, age, isOld }) {
  if (isOld("state")) return ["unknown", `Not known for ${duration(age)}`];
  if (state.status !== "degraded") return STATUSES[state.status] ?? ["bad", state.status];
  const felt = state.reasons.find((reason) => reason.cause in FELT);
  if (felt) return ["warn", FELT[felt.cause]];
  if (isOld("mysql") || !state.mysql.primary || state.mysql.committed === null) return ["unknown", "Whether changes commit is not known"];
  if (state.mysql.committed >= COMMITS_WITHIN) return ["warn", `Degraded: nothing committed for ${duration(state.mysql.committed)}`];
  if (state.reasons.every((reason) => reason.cause === "unknown")) return ["unknown", "Serving; not everything is known"];
  return STATUSES.degraded;
}

export function show(view) {
  const { state, now } = view;
  const [level, headline] = judge(view);
  const old = view.isOld("state");
  data(byId("verdict"), "level", level);
  text(byId("verdict-mark"), MARKS[level]);
  text(byId("headline"), headline);
  const was = (STATUSES[state.status] ?? ["", state.status])[1];
  text(byId("subline"), old ? `No contact with ${state.gateway}. What it said then: ${was}`
    : `${since(state.since, now)}${state.status === "unavailable" ? " · clients get 503 with Retry-After; nothing acknowledged is lost" : ""}`);
  document.title = `${level === "ok" ? "" : `${MARKS[level]} ${headline} · `}Tapedeck ${state.gateway}`;
  keyed(byId("reasons"), state.reasons, (reason) => `${reason.cause} ${reason.text.split(": ")[0]}`, makeReason, now);
  const figures = tiles(state).map((tile) => (old ? { ...tile, value: `? ${tile.value}`, more: ago(view.age), level: "unknown" } : tile));
  keyed(byId("figures"), figures, (tile) => tile.name, makeTile);
  const parts = [gatewayPart(view), ringPart(view), mysqlPart(view), daysPart(view), ...othersPart(view)];
  keyed(byId("parts"), parts, (part) => part.name, makePart);
}

function makeReason(first) {
  const [what, when] = [h("span"), h("span", { class: "when" })];
  const page = h("a", { href: `docs/${encodeURIComponent(first.read)}`, target: "_blank", rel: "noreferrer" }, "what to do");
  return {
    element: h("li", {}, what, when, page),
    update: (reason, now) => {
      text(what, `${reason.cause === "unknown" ? "? " : ""}${sentence(reason.text)}`);
      text(when, since(reason.since, now));
    },
  };
}

function makePart({ name }) {
  const badge = h("span", { class: "badge" });
  const line = h("p");
  return {
    element: h("div", { class: "part" }, h("b", {}, name, badge), line),
    update: (part) => { data(badge, "level", part.level); text(badge, part.word); text(line, part.line); },
  };
}

function makeTile({ name }) {
  const [value, more] = [h("dd"), h("dd", { class: "muted" })];
  return {
    element: h("div", {}, h("dt", {}, name), value, more),
    update: (tile) => { text(value, tile.value); text(more, tile.more ?? ""); data(value, "level", tile.level); },
  };
}

function tiles(state) {
  const now = state.now;
  if (!now) return [];
  const { success, latency } = state.objective;
  const p99 = now.latency[2];
  const failed = failing(now);
  const worst = budgets(state).find((one) => one.allowed >= 1);
  const committed = state.mysql?.committed ?? null;
  const hit = now.listeners_failed ?? 0;
  return [
    { name: "Requests /s", value: number(sum(now.requests)) },
    { name: "Slowest 1 %", value: milliseconds(p99), more: `objective ${latency} ms`, level: p99 > latency ? "warn" : null },
    { name: "Failing /s", value: number(failed), level: failed ? "bad" : null },
    { name: "Budget left", value: worst ? percent(Math.max(0, worst.left)) : "?", more: worst ? `class ${worst.name}, of ${success} %` : "too few requests", level: worst && worst.left <= 0 ? "bad" : null },
    { name: "Listeners hit", value: hit >= 2000 ? "2,000 or more" : number(hit), more: "in 5 min", level: hit ? "bad" : null },
    { name: "Last commit", value: committed === null ? "?" : committed < 2 ? "now" : `${duration(committed)} ago`, level: committed === null ? "unknown" : committed >= COMMITS_WITHIN ? "bad" : null },
  ];
}

function gatewayPart({ state, now, isOld }) {
  if (isOld("state")) return unknown("Gateway", state.at, now);
  const gone = state.workers.filter((worker) => worker.status === "missing");
  const many = state.workers.length === 1 ? "1 worker" : `${state.workers.length} workers`;
  const busy = `${many}, ${number(state.now?.in_flight ?? 0)} requests in flight`;
  if (gone.length) return { name: "Gateway", level: "warn", word: "a worker is away", line: `Worker ${gone.map((w) => w.worker).join(", ")} does not answer` };
  if (state.status === "unavailable") return { name: "Gateway", level: "bad", word: "answers 503", line: busy };
  if (state.now && failing(state.now)) return { name: "Gateway", level: "warn", word: "requests fail", line: busy };
  return { name: "Gateway", level: "ok", word: "well", line: busy };
}

const unknown = (name, at, now) => ({ name, level: "unknown", word: "not known", line: at ? `Last known ${ago(now - at)}` : "Not known yet" });

function ringPart({ state, now, isOld }) {
  const name = "Lookup ring";
  if (isOld("ring")) return unknown(name, state.known.ring, now);
  const nodes = state.ring.nodes;
  const out = nodes.filter((node) => node.state !== "live");
  if (!out.length) return { name, level: "ok", word: "well", line: `${nodes.length} of ${nodes.length} nodes live` };
  const at = out[0].since ? Date.parse(out[0].since) / 1000 : null;
  return {
    name, level: "warn", word: `${out.length} of ${nodes.length} out`,
    line: `${out.map((node) => node.name).join(", ")} ${since(at, now)}. Listeners see no error; loads read more partitions`,
  };
}

function mysqlPart({ state, now, isOld }) {
  const name = "MySQL";
  if (isOld("mysql")) return unknown(name, state.known.mysql, now);
  const mysql = state.mysql;
  if (mysql.split) return { name, level: "bad", word: "two primaries", line: mysql.problem };
  if (!mysql.primary) {
    const lost = mysql.lost_for;
    const waits = lost !== null && lost <= state.deadline;
    return {
      name, level: waits ? "warn" : "bad", word: waits ? "fails over" : "no primary",
      line: `${lost === null ? "Never reached" : `For ${duration(lost)}`}; ${number(mysql.waiting)} waiting. ${sentence(mysql.problem ?? "")}`,
    };
  }
  if (mysql.committed >= COMMITS_WITHIN) return { name, level: "bad", word: "commits nothing", line: `For ${duration(mysql.committed)}; reads are answered` };
  if (mysql.redundant === false) return { name, level: "warn", word: "not redundant", line: sentence(mysql.redundancy ?? "") };
  if (mysql.committed === null) return { name, level: "unknown", word: "commits?", line: "Whether changes commit is not known" };
  if (mysql.redundant === null && mysql.redundancy) return { name, level: "unknown", word: "redundant?", line: sentence(mysql.redundancy) };
  return { name, level: "ok", word: "well", line: `${mysql.primary} is the primary${mysql.redundancy ? `; ${mysql.redundancy}` : ""}` };
}

function daysPart({ state, parts, now, isOld }) {
  const name = "Days";
  if (!parts || isOld("partitions")) return unknown(name, state.known.partitions, now);
  const late = parts.filter((p) => dayStart(p.drops_on) + state.drop_after + 3600 < now);
  if (late.length) return { name, level: "warn", word: "not pruned", line: `${late.length} past retention` };
  const next = parts.reduce((first, p) => (first === null || p.drops_on < first.drops_on ? p : first), null);
  return { name, level: "ok", word: "well", line: next ? `${parts.length} kept; ${dayName(next.day)} goes on ${dayName(next.drops_on)}` : "None yet" };
}

function othersPart({ gateways, now }) {
  if (!gateways.length) return [];
  const name = "Other gateways";
  const ill = gateways.filter((one) => one.problem || one.status !== "ready");
  if (!ill.length) return [{ name, level: "ok", word: "well", line: `${gateways.length} of ${gateways.length} ready` }];
  return [{
    name, level: "warn", word: `${ill.length} of ${gateways.length} not well`,
    line: ill.map((one) => `${one.url}: ${one.problem ? `${one.problem}${one.seen ? `, last ${ago(now - one.seen)}` : ""}` : one.status}`).join("; "),
  }];
}
