// Puts the page together: what the stream says goes to the panels.

import * as charts from "./charts.js";
import { byId, clock, data, text } from "./dom.js";
import * as panels from "./panels.js";
import * as ring from "./ring.js";
import { follow } from "./stream.js";
import "./where.js";

let state = null;
let days = null;
let happened = [];
let gateways = [];
let lastWord = 0;

function show() {
  if (!state) return;
  text(byId("whose"), `gateway ${state.gateway} · ${state.version}${state.mode === "local" ? " · local" : ""}`);
  text(byId("clock"), clock(state.at));
  if (state.ring) ring.forget(new Set(state.ring.nodes.map((node) => node.name)));
  for (const panel of [
    () => panels.verdict(state, days, gateways),
    () => ring.show(state),
    () => panels.mysql(state),
    () => panels.partitions(state, days),
    () => panels.workers(state, gateways),
    () => panels.gateways(state, gateways),
    () => panels.events(state, happened),
    () => charts.show(state),
  ]) {
    try {
      panel();
    } catch (error) {
      // One panel that fails must not hide the others.
      console.error(error);
    }
  }
}

const on = {
  begin: () => charts.begin(),
  points: (more) => charts.addPoints(more, state?.keep ?? 900),
  events: (list) => {
    happened = list;
    charts.setEvents(list);
  },
  outline: (value) => {
    ring.setOutline(value);
    show();
  },
  partitions: (value) => {
    days = value;
    show();
  },
  gateways: (value) => { gateways = value; },
  state: (value) => {
    state = value;
    show();
  },
};

function contact(line, detail) {
  if (line === "live") lastWord = Date.now();
  data(byId("contact"), "state", line);
  data(document.body, "stale", line === "lost" ? "yes" : null);
  const words = { live: "live", waiting: detail ?? "connecting", lost: `no contact${lastWord ? ` since ${clock(lastWord / 1000)}` : ""}: what is shown is old` };
  text(byId("contact"), words[line]);
}

document.addEventListener("visibilitychange", show);
window.addEventListener("resize", show);
contact("waiting");
follow("dashboard/events", on, contact);
