// What listeners were promised, what is left of the error budget, and which routes spend it.

import { byId, clock, h, keyed, number, percent, table, text } from "./dom.js";

const STEP = 5; // seconds of a point

// What is left of each class's error budget since the gateway began, the least first.
export function budgets(state) {
  const { requests = {}, failed = {}, slow = {} } = state.now?.sli_since_start ?? {};
  const share = 1 - state.objective.success / 100;
  return Object.entries(requests).map(([name, count]) => {
    const allowed = count * share;
    const lost = failed[name] ?? 0;
    return { name, requests: count, failed: lost, slow: slow[name] ?? 0, allowed, left: 1 - lost / Math.max(allowed, 1) };
  }).sort((a, b) => a.left - b.left || b.requests - a.requests);
}

export function show(state, points) {
  const { success, latency } = state.objective;
  text(byId("objective-note"), `${success} % succeed, 99 % within ${latency} ms · budget since this gateway began, ${clock(state.started).slice(0, 5)} UTC`);
  const rows = budgets(state).map((one) => [
    one.name, number(one.requests), number(one.failed), one.allowed < 1 ? "too few" : percent(Math.max(0, one.left)),
    burn(points, one.name, 1 - success / 100), one.requests ? percent(1 - one.slow / one.requests) : "–"]);
  table(byId("classes"), ["class", "requests", "failed", "budget left", "burns", "in time"], rows);
  const failed = new Map();
  for (const point of points) {
    for (const [route, rate] of Object.entries(point.failing)) failed.set(route, (failed.get(route) ?? 0) + rate * STEP);
  }
  const most = [...failed].sort((a, b) => b[1] - a[1]).slice(0, 5);
  keyed(byId("routes"), most.length ? most : [["", 0]], ([route]) => route, ([route]) => {
    const count = h("b");
    return {
      element: route ? h("li", {}, h("code", {}, route), count) : h("li", { class: "nothing" }, "None in the time that is shown."),
      update: ([, times]) => text(count, `${number(Math.round(times))} times`),
    };
  });
}

// How many times the pace at which the budget lasts a month, over the time that the charts show.
function burn(points, name, budget) {
  const add = (kind) => points.reduce((total, point) => total + (point.sli[kind][name] ?? 0), 0);
  const requests = add("requests");
  return requests ? `${number(add("failed") / requests / budget)} ×` : "–";
}
