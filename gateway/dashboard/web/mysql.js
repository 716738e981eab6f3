// The MySQL hosts, and what waits for them.

import { byId, data, duration, facts, h, keyed, number, sum, text } from "./dom.js";

const ROLES = { primary: ["ok", "primary"], standby: ["ok", "standby"], fenced: ["bad", "fenced off"], unknown: ["bad", "no answer"] };

export function show(state) {
  const pair = state.mysql;
  if (!pair) return;
  text(byId("mysql-note"), `generation ${pair.generation}`);
  const rank = { primary: 0, fenced: 1, unknown: 2, standby: 3 };
  const hosts = pair.hosts.map((host) => ({ ...host, key: host.address }))
    .sort((a, b) => rank[a.role] - rank[b.role]);
  const items = hosts.length > 1 ? [hosts[0], { key: "wire" }, ...hosts.slice(1)] : hosts;
  keyed(byId("hosts"), items, (host) => host.key, (host) => (host.key === "wire" ? makeWire() : makeHost()));
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
  const level = !pair.primary || pair.redundant === false ? "warn" : pair.redundant ? "ok" : null;
  data(line, "level", level);
  text(line, !pair.primary ? "✕ no host commits" : pair.redundant === false ? `✕ not redundant: ${pair.redundancy}`
    : pair.redundant ? "↓ acknowledges every commit" : `? ${pair.redundancy ?? "acknowledgement not asked for"}`);
}

function queue(state, pair) {
  const box = byId("queue");
  if (!box.firstChild) {
    box.append(h("div", { class: "queue-head" }, h("span", {}, "Requests that wait"), h("b")), h("div", { class: "meter" }, h("i")), h("p", { class: "muted" }));
  }
  const [head, meter, line] = box.children;
  const waits = pair.waiting;
  text(head.lastChild, number(waits));
  meter.firstChild.style.width = `${Math.min(100, 100 * Math.sqrt(waits / 1024))}%`;
  data(meter, "level", !pair.primary ? "bad" : waits > 64 ? "warn" : null);
  text(line, pair.primary ? "" : `Each waits for a primary for ${duration(state.deadline)} at most, then it gets 503`);
}
