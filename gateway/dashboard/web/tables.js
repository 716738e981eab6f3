// The workers of this gateway, and the other gateways.

import { ago, byId, bytes, failing, h, milliseconds, number, percent, sum, table, text } from "./dom.js";

export function workers(state, others) {
  const one = state.workers.length === 1;
  text(byId("workers-note"), `${one ? "one process" : `${state.workers.length} processes on one port`}${others.length ? "" : "; admin.peers puts other gateways beside it"}`);
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

export function gateways(state, others) {
  byId("gateways-card").hidden = !others.length;
  if (!others.length) return;
  const now = state.now;
  const own = {
    url: "", gateway: `${state.gateway} (this one)`, status: state.status, workers: state.workers.length,
    requests: sum(now?.requests), failing: now ? failing(now) : 0, latency: now?.latency ?? [null, null, null],
    out: (state.ring?.nodes ?? []).filter((node) => node.state !== "live").map((node) => node.name),
    generation: state.ring?.generation, primary: state.mysql?.primary, seen: state.at,
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
  const rows = all.map((one) => [
    ...(one.problem ? [one.url, `? ${one.problem}`, "–", "–", "–", "–", "–", "–"]
      : [one.url ? link(one) : one.gateway, one.status, number(one.workers), number(one.requests), number(one.failing),
        milliseconds(one.latency?.[2]), one.out?.join(", ") || "none", one.primary ?? "none"]),
    one.seen ? ago(state.at - one.seen) : "never"]);
  rows.push(["all", "", number(total("workers")), number(total("requests")), number(total("failing")),
    worst.length ? `${milliseconds(Math.max(...worst))} at worst` : "–", "", "", ""]);
  table(byId("gateways"), ["gateway", "status", "workers", "requests/s", "failing/s", "p99", "nodes out", "primary", "heard"], rows);
}

// Each gateway has its own page. Addresses come from the configuration, which takes http(s) only.
function link(one) {
  return h("a", { href: `${one.url.replace(/\/$/, "")}/`, rel: "noreferrer" }, one.gateway);
}
