// Plays one mix: the place is the gateway's, so a reload of the page goes on where it was.

const at = (id) => document.getElementById(id);
const mix = document.querySelector("main").dataset.mix_id;
const KEPT = "tapedeck.listener";
const PASSING = [429, 502, 503, 504];
const audio = at("audio");
let track = null;
let moving = false;

// Asks again while the gateway cannot answer or be reached. A move may be repeated because it names
// the track that it leaves.
async function ask(path) {
  for (let pause = 500; ; pause = Math.min(pause * 2, 5000)) {
    try {
      const answer = await fetch(path, { method: "POST", cache: "no-store" });
      if (!PASSING.includes(answer.status)) {
        const body = await answer.json();
        at("notice").textContent = [...(body.errors ?? []), ...(body.notices ?? [])].join(" ");
        return { status: answer.status, body };
      }
    } catch {
      // No connection, or a proxy's page instead of an answer.
    }
    at("notice").textContent = "There is no answer right now; asking again.";
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

// Asks for this listener. A refused token (it has expired, or its key is gone) never becomes good
// again: then this is a new listener.
async function command(what) {
  for (let again = false; ; again = true) {
    let token = localStorage.getItem(KEPT);
    if (!token) {
      const answer = await ask("/sets/new");
      if (answer.status !== 200) return answer;
      token = answer.body.play_token;
      localStorage.setItem(KEPT, token);
    }
    const answer = await ask(`/sets/${token}/${what}`);
    if (answer.status !== 401 || again) return answer;
    // Another tab may have a new one already.
    if (localStorage.getItem(KEPT) === token) localStorage.removeItem(KEPT);
  }
}

async function move(way) {
  if (moving) return;
  moving = true;
  const believed = track && way !== "play" ? `&track_id=${track.id}` : "";
  try {
    show(await command(`${way}?mix_id=${mix}${believed}`));
  } finally {
    moving = false;
  }
}

function show({ status, body }) {
  if (status !== 200) return;
  track = body.set.at_end ? null : body.set.track;
  at("track").textContent = track ? `${track.name}, ${track.performer}` : "The mix is over.";
  at("play").textContent = track ? "Pause" : "Play";
  at("next").disabled = !track;
  at("skip").disabled = !track || !body.set.skip_allowed;
  if (!track) return audio.pause();
  audio.src = track.track_file_stream_url;
  audio.play().catch(() => { at("notice").textContent = "The browser cannot play this track."; });
}

at("play").addEventListener("click", () => {
  if (!track) return move("play");
  const pause = at("play").textContent === "Pause";
  at("play").textContent = pause ? "Play" : "Pause";
  if (pause) audio.pause();
  else audio.play().catch(() => {});
});
at("play").disabled = false;
at("next").addEventListener("click", () => move("next"));
at("skip").addEventListener("click", () => move("skip"));
audio.addEventListener("ended", () => move("next"));
audio.addEventListener("timeupdate", () => {
  if (!track || track.reported || audio.currentTime < 30) return;
  track.reported = true;
  command(`report?mix_id=${mix}&track_id=${track.id}`);
});
