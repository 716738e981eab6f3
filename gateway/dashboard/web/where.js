// Find a listener: who it is, which of its requests failed, what the nodes say, and what is true.

import { byId, clock, h, text } from "./dom.js";
import { ask, Refused } from "./stream.js";

const MOST = 4000; // characters of a state that are shown
const TOKEN = /^[A-Za-z0-9_-]{44}$/;
const USER = /^[0-9]{1,19}$/;

const SAYS = { miss: "has no entry", garbage: "has an entry that means nothing", unavailable: "did not answer" };

const form = byId("where");
let question = 0; // the newest one; what answers an older one is dropped

// A new question, or a change of it: no old answer stands under it.
function clear(...instead) {
  question += 1;
  byId("found").replaceChildren(...instead);
  text(byId("where-title"), "Find a listener");
  return question;
}

form.addEventListener("input", () => clear());
form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const who = form.who.value.trim();
  let playlist = form.playlist.value.trim();
  const mine = clear(h("p", { class: "muted" }, "Looking."));
  // A token opens a listener's place: it does not stay on the screen.
  if (TOKEN.test(who)) form.who.value = "";
  const parts = [];
  try {
    let user = who;
    if (!USER.test(who)) {
      const found = await ask("find", TOKEN.test(who) ? { play_token: who } : { request_id: who });
      parts.push(listener(found, TOKEN.test(who)));
      user = found.listener?.user_id;
      playlist ||= found.failed[0]?.playlist_id ?? "";
    } else if (!playlist) {
      parts.push(h("p", {}, "Which playlist? A listener has a place in each."));
    }
    if (user && playlist) {
      const place = await ask(`where/${encodeURIComponent(user)}/${encodeURIComponent(playlist)}`);
      parts.push(...lies(place));
      if (mine === question) text(byId("where-title"), `Listener ${user} in playlist ${playlist}`);
    }
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    parts.push(h("p", { class: "trouble" }, error.message));
  }
  if (mine === question) byId("found").replaceChildren(h("div", { class: "found" }, ...parts));
});

// Who it is, and the requests that failed.
function listener({ listener: one, problem, failed }, byToken) {
  const words = one ? `${one.logged_in === false ? "An anonymous listener" : "The listener"}, number ${one.user_id}`
    : failed.length ? "The request names no listener" : byToken ? "No listener" : "Not among the last requests that failed here. With log.requests the log has each request's id";
  return h("div", {},
    h("p", {}, h("b", {}, `${words}. ${problem ?? ""}`)),
    one?.expires ? h("p", {}, `The token is good until ${new Date(one.expires * 1000).toISOString().slice(0, 16).replace("T", " ")} UTC.`) : null,
    failed.length ? h("p", {}, "Requests that failed, the newest first:") : byToken && one ? h("p", {}, "None of its requests failed here lately.") : null,
    h("ol", { class: "routes" }, ...failed.map((r) => h("li", {}, h("code", {}, `${r.request} ${r.status}`), h("span", { class: "muted" }, `${clock(r.at)} · ${r.request_id}`)))));
}

// Where the state lies.
function lies(found) {
  const { state, owner, hints } = found;
  const list = h("dl", {});
  const pair = (name, ...value) => list.append(h("dt", {}, name), h("dd", {}, ...value));
  pair("Lookup key", h("code", {}, found.lookup_key));
  pair("Owner", `${owner}${found.order.length > 1 ? `, then ${found.order.slice(1).join(", ")}` : ""}`);
  for (const hint of hints) {
    if (hint.node === owner || hint.outcome === "day") {
      pair(hint.node === owner ? "Hint" : "Also", `${hint.node} ${hint.day ? `says ${hint.day}` : SAYS[hint.outcome] ?? hint.outcome}`);
    }
  }
  if (state) {
    pair("Partition", h("code", {}, state.partition));
    pair("Version", String(state.version));
    pair("Belongs to", state.owner === "player" ? "the Player" : "the states API");
  }
  return [h("p", {}, h("b", {}, judge(found))), list,
    ...(state ? [h("pre", { tabindex: "0", "aria-label": "The state" }, pretty(state.body))] : [])];
}

function judge({ state, hints, owner }) {
  const hint = hints.find((one) => one.node === owner);
  if (!state) return hint.day ? "There is no state, though a hint says there is: the next load removes it" : "This listener has no state in this playlist";
  if (hint.day === state.day) return "The hint is right: a load reads no more than it must";
  if (hint.day === null) return `No hint: the next load reads every day whose filter does not rule it out, finds it in ${state.day}, and repairs the hint`;
  return `The hint is wrong: the next load finds it in ${state.day} all the same, and repairs the hint`;
}

function pretty(body) {
  // Numbers beyond 2^53 would change if they were read and written again: then it is shown as it is.
  let shown = body;
  try {
    if (!/\d{16}/.test(body)) shown = JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    // Not JSON: as it is.
  }
  return shown.length > MOST ? `${shown.slice(0, MOST)}\n… ${shown.length - MOST} characters more` : shown;
}
