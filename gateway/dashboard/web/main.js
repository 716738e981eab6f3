// Puts the page together: what the stream says goes to the panels, each with its age.

import * as charts from "./charts.js";
import * as days from "./days.js";
import { byId, clock, data, duration, text } from "./dom.js";
import * as events from "./events.js";
import * as mysql from "./mysql.js";
import * as objective from "./objective.js";
import * as ring from "./ring.js";
import { follow, read } from "./stream.js";
import * as tables from "./tables.js";
import * as verdict from "./verdict.js";
import "./where.js";

const OLD = 8; // seconds after which a look says nothing of now; partitions are asked every 10 s
const OLD_OF = { partitions: 35 };

let state = null;
let parts = null;
let happened = [];
let gateways = [];
let came = 0; // when the state came, by this page's own clock, which never jumps
let lost = false;

const sinceState = () => (performance.now() - came) / 1000;

// Seconds since something was known to the gateway that this page shows.
function age(of) {
  const at = of === "state" ? state.at : state.known[of];
  return at === null || at === undefined ? null : state.at - at + sinceState();
}

const isOld = (of) => lost || age(of) === null || age(of) > (OLD_OF[of] ?? OLD);

function show() {
  if (!state) return;
  text(byId("whose"), `gateway ${state.gateway} · ${state.version}${state.mode === "local" ? " · local" : ""}`);
  if (state.ring) ring.forget(new Set(state.ring.nodes.map((node) => node.name)));
  for (const panel of [
    ages,
    () => ring.show(state),
    () => mysql.show(state),
    () => days.show(state, parts),
    () => objective.show(state, charts.shown()),
    () => tables.workers(state, gateways),
    () => tables.gateways(state, gateways),
    () => events.show(state, happened),
    () => charts.show(state),
  ]) careful(panel);
}

function careful(panel) {
  try {
    panel();
  } catch (error) {
    // One panel that fails must not hide the others.
    console.error(error);
  }
}

// What is not known any more is never green: its card is marked, and says its age.
function ages() {
  if (!state) return;
  const now = state.at + sinceState();
  text(byId("clock"), clock(now));
  data(document.body, "stale", isOld("state"));
  for (const place of document.querySelectorAll(".age")) {
    const seconds = age(place.dataset.of);
    const old = isOld(place.dataset.of);
    text(place, seconds === null ? "? not known yet" : `${old ? "? as it was " : ""}${duration(seconds)} ago`);
    data(place.closest(".card"), "stale", old);
  }
  verdict.show({ state, parts, gateways, now, age: age("state"), isOld });
}

const on = {
  begin: () => charts.begin(),
  points: (more) => charts.addPoints(more, state?.keep ?? 3600),
  events: (list) => {
    happened = list;
    charts.setEvents(list);
  },
  outline: (value) => {
    ring.setOutline(value);
    show();
  },
  partitions: (value) => {
    parts = value;
    show();
  },
  gateways: (value) => { gateways = value; },
  state: (value) => {
    state = value;
    came = performance.now();
    show();
  },
};

function contact(line, detail) {
  lost = line === "lost";
  data(byId("contact"), "state", line);
  text(byId("contact"), { live: "live", waiting: detail ?? "connecting", lost: "no contact" }[line]);
  careful(ages);
}

document.addEventListener("visibilitychange", show);
window.addEventListener("resize", show);
byId("metrics").addEventListener("click", async (event) => {
  // A link carries no header: where the port asks for the token, the page fetches the text itself.
  const blob = await read(event, "metrics");
  if (blob) window.open(URL.createObjectURL(blob), "_blank");
});
charts.onRange(show);
setInterval(() => careful(ages), 1000);
contact("waiting");
follow("dashboard/events", on, contact);
