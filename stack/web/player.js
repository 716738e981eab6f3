// A small player: it plays a mix through the gateway, and checks after every move that the place is
// where it should be.

import { byId, data, facts, h, keyed, text } from "./dom.js";

const TRACK_SECONDS = 20; // a track here; its real length is shown
const LOOK_EVERY = 1500; // milliseconds between looks at the stack and at the place
const KEPT = "tapedeck.demo";

let listener = null;
let mix = null;
let mixes = [];
let track = null;
let skippable = false;
let playing = false;
let played = 0; // seconds of this track
let reported = false;
let acknowledged = []; // the tracks that the gateway said were played, in order
let checks = 0; // how many checks of them were begun
let busy = false;

class Refused extends Error {}

async function call(path, method = "GET") {
  const answer = await fetch(path, { method, headers: method === "GET" ? {} : { "X-Tapedeck-Demo": "player" }, cache: "no-store" });
  const body = await answer.json();
  if (answer.ok) return body;
  const refused = new Refused([...(body.errors ?? []), ...(body.notices ?? [])].join(" ") || `${answer.status}`);
  refused.status = answer.status;
  throw refused;
}

// Asks again while the gateway says 503 or cannot be reached, as a real client does. A move may be
// repeated because it names the track that it leaves.
async function insist(path) {
  for (let pause = 300; ; pause = Math.min(pause * 2, 3000)) {
    try {
      const body = await call(path, "POST");
      text(byId("notice"), "");
      return body;
    } catch (error) {
      if (error instanceof Refused && error.status < 500) throw error;
      text(byId("notice"), "The gateway cannot answer right now; asking again.");
      await new Promise((resolve) => setTimeout(resolve, pause));
    }
  }
}

const of = (action, more = "") => `sets/${listener.play_token}/${action}?mix_id=${mix.id}${more}`;

async function move(action) {
  if (busy) return;
  busy = true;
  const focused = document.activeElement;
  buttons();
  try {
    const believed = action === "play" ? "" : `&track_id=${track.id}`;
    await take(await insist(of(action, believed)));
  } catch (error) {
    text(byId("notice"), error.message);
  } finally {
    busy = false;
    buttons();
    refocus(focused.disabled ? byId("play") : focused);
  }
}

// A button loses the focus while it is disabled: who plays by keyboard would begin at the page's top again.
function refocus(element) {
  if (document.activeElement === document.body) element.focus();
}

async function take(body) {
  const set = body.set;
  if (set.at_end) {
    playing = false;
    track = null;
    text(byId("track"), "The mix is over");
    text(byId("performer"), "Play begins it again.");
  } else if (track?.id !== set.track.id) {
    track = set.track;
    played = 0;
    reported = false;
    text(byId("track"), track.name);
    text(byId("performer"), [track.performer, track.release_name, track.year].filter(Boolean).join(" · "));
  }
  skippable = set.skip_allowed && !set.at_end;
  if (set.at_beginning) acknowledged = [track.id]; // what was played before a restart is not in the list
  else if (track && acknowledged.at(-1) !== track.id) acknowledged.push(track.id);
  await check();
}

// Asks the gateway what was played: the acknowledged tracks must be in it, in their order. Other
// tracks between them were played in another tab.
async function check() {
  const asked = ++checks;
  const { tracks } = await insist(of("tracks_played"));
  if (asked !== checks) return; // another check, or another mix, has begun since
  const ids = tracks.map((one) => one.id);
  let found = 0;
  for (const id of ids) if (id === acknowledged[found]) found += 1;
  const same = found === acknowledged.length;
  if (!same) {
    data(byId("kept"), "level", "bad");
    text(byId("kept"), `✕ The place was lost: ${ids.length} tracks are known, ${acknowledged.length} were acknowledged`);
  } else {
    acknowledged = ids;
    data(byId("kept"), "level", "ok");
    text(byId("kept"), `✓ Place kept: ${ids.length} ${ids.length === 1 ? "track" : "tracks"}, all of them in order`);
  }
  byId("played").replaceChildren(...tracks.map((one) => {
    const line = h("li", {}, `${one.name}, ${one.performer}`);
    data(line, "now", track && one.id === track.id ? "yes" : null);
    return line;
  }));
}

function buttons() {
  byId("mix").disabled = busy; // the answer that is awaited is about this mix
  byId("play").disabled = busy || !mix;
  text(byId("play"), playing ? "Pause" : "Play");
  byId("next").disabled = busy || !track;
  byId("skip").disabled = busy || !track || !skippable;
  data(byId("reels"), "playing", playing && track ? "yes" : null);
}

byId("play").addEventListener("click", async () => {
  playing = !playing;
  if (playing && !track) {
    await move("play");
    playing = track !== null;
  }
  buttons();
});
byId("next").addEventListener("click", () => move("next"));
byId("skip").addEventListener("click", () => move("skip"));
byId("mix").addEventListener("change", () => choose(Number(byId("mix").value)));

function choose(id) {
  mix = mixes.find((one) => one.id === id) ?? mixes[0];
  byId("mix").value = String(mix.id);
  track = null;
  playing = false;
  acknowledged = [];
  checks += 1;
  byId("played").replaceChildren();
  data(byId("kept"), "level", "none");
  text(byId("kept"), "Not asked yet");
  text(byId("track"), mix.name);
  text(byId("performer"), mix.description ?? "");
  keep();
  buttons();
}

function keep() {
  localStorage.setItem(KEPT, JSON.stringify({ listener, mix: mix?.id }));
}

setInterval(() => {
  if (!playing || !track || busy) return;
  played += 0.25;
  byId("progress").style.width = `${Math.min(100, (played / TRACK_SECONDS) * 100)}%`;
  text(byId("position"), `${Math.floor(played)} of ${TRACK_SECONDS} s (really ${Math.floor(track.play_duration / 60)} min ${track.play_duration % 60} s)`);
  if (!reported && played > TRACK_SECONDS / 2) {
    reported = true;
    insist(of("report", `&track_id=${track.id}`)).catch(() => {});
  }
  if (played >= TRACK_SECONDS) move("next");
}, 250);

// --- where the place lies, and the servers

let owner = null;

async function look() {
  const [stack] = await Promise.allSettled([call("stack"), place()]);
  if (stack.status === "fulfilled") servers(stack.value);
}

async function place() {
  if (!listener || !mix) return;
  try {
    const found = await call(`where/${listener.user_id}/${mix.id}`);
    owner = found.owner;
    const hint = found.hints.find((one) => one.node === owner);
    const says = { miss: "has no entry yet", unavailable: "does not answer", garbage: "has an entry that is no day" };
    facts(byId("place"), [
      ["listener", `user ${listener.user_id}, mix ${mix.id}`],
      ["lies in", found.state?.partition ?? "no partition yet"],
      ["version", found.state ? String(found.state.version) : "–"],
      ["its hint", `${owner} ${hint.day ? `says ${hint.day}` : says[hint.outcome] ?? hint.outcome}`],
    ]);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    facts(byId("place"), [["lies in", `not known: ${error.message}`]]);
  }
}

function servers(status) {
  byId("dashboard").href = status.dashboard;
  const list = Object.entries(status.servers).filter(([name]) => name !== "gateway");
  keyed(byId("servers"), list, ([name]) => name, ([name]) => {
    const [line, button] = [h("p"), h("button", { class: "quiet" })];
    const element = h("li", {}, h("div", {}, h("b", {}, name), line), button);
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        await call(`stack/${button.dataset.order}/${name}`, "POST");
      } catch (error) {
        text(byId("notice"), error.message);
      }
      button.disabled = false;
      refocus(button);
      await look();
      if (mix && track) check();
    });
    return {
      element,
      update: ([, server]) => {
        const dead = server.state !== "running";
        data(element, "state", dead ? "dead" : "running");
        const role = server.role ?? (name === owner ? "holds the hint to your place" : "lookup node");
        text(line, dead ? `${server.state} · ${role}` : role);
        data(button, "order", dead ? "start" : "kill");
        text(button, dead ? "Start" : "Kill");
        button.setAttribute("aria-label", `${dead ? "Start" : "Kill"} ${name}`);
      },
    };
  });
}

async function begin() {
  const kept = JSON.parse(localStorage.getItem(KEPT) ?? "{}");
  for (;;) {
    try {
      mixes = (await call("mix_sets/all?per_page=100")).mix_set.mixes;
      // This stack refuses a token of another stack. Any other failure says nothing about the token.
      const good = kept.listener && (await call(`sets/${kept.listener.play_token}/next_mix?mix_id=${mixes[0].id}`).then(() => true, (error) => error.status !== 401));
      listener = good ? kept.listener : await call("listener", "POST");
      break;
    } catch {
      text(byId("notice"), "The gateway cannot answer right now; asking again.");
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
  text(byId("notice"), "");
  byId("mix").replaceChildren(...mixes.map((one) => h("option", { value: one.id }, `${one.name} (${one.tracks_count})`)));
  choose(kept.mix);
  await look();
}

await begin();
setInterval(() => { if (!document.hidden) look(); }, LOOK_EVERY);
