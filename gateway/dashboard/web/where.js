// Where is a listener: what the nodes say, and what is true.

import { byId, h, text } from "./dom.js";
import { ask, Refused } from "./stream.js";

const MOST = 4000; // characters of a state that are shown

const SAYS = { miss: "has no entry", garbage: "has an entry that means nothing", unavailable: "did not answer" };

byId("where").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const button = form.querySelector("button");
  const [user, playlist] = [form.user.value.trim(), form.playlist.value.trim()];
  button.disabled = true;
  try {
    show(user, playlist, await ask(`where/${encodeURIComponent(user)}/${encodeURIComponent(playlist)}`));
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    byId("found").replaceChildren(h("p", { class: "found trouble" }, error.message));
  } finally {
    button.disabled = false;
  }
});

function show(user, playlist, found) {
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
  const box = h("div", { class: "found" }, h("p", {}, h("b", {}, judge(found))), list);
  if (state) box.append(h("pre", { tabindex: "0", "aria-label": "The state" }, pretty(state.body)));
  byId("found").replaceChildren(box);
  text(byId("where-title"), `Where is listener ${user} in playlist ${playlist}?`);
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
    const again = JSON.stringify(JSON.parse(body));
    if (again === JSON.stringify(JSON.parse(body)) && !/\d{16}/.test(body)) shown = JSON.stringify(JSON.parse(body), null, 2);
  } catch {
    // Not JSON: as it is.
  }
  return shown.length > MOST ? `${shown.slice(0, MOST)}\n… ${shown.length - MOST} characters more` : shown;
}
