// What happened in the last hour, newest first.

import { byId, clock, data, duration, h, keyed, text } from "./dom.js";

// Where the name of a cause is not yet a word for people.
const WORDS = {
  nodes: "lookup node", primary: "no primary", redundancy: "not redundant", commits: "no commits", standby: "no commits",
  lock: "no commits", job: "background", foreign_today: "foreign table", foreign: "foreign table", promoted: "new primary", draining: "taken out",
};

export function show(state, list) {
  const box = byId("events");
  keyed(box, [...list].reverse().slice(0, 60), (event) => event.id, (event) => {
    const badge = h("span", { class: "badge" }, WORDS[event.kind] ?? event.kind);
    data(badge, "level", event.level);
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
