// Plays one mix: the place is the gateway's, so a reload of the page goes on where it was.

const at = (id) => document.getElementById(id);
const mix = document.querySelector("main").dataset.mix_id;
const audio = at("audio");
let track = null;

async function ask(path) {
  const answer = await fetch(path, { method: "POST", cache: "no-store" });
  const body = await answer.json();
  at("notice").textContent = [...(body.errors ?? []), ...(body.notices ?? [])].join(" ");
  return answer.ok ? body : null;
}

async function move(command) {
  let token = localStorage.getItem("tapedeck.listener");
  if (!token) {
    token = (await ask("/sets/new"))?.play_token;
    if (!token) return;
    localStorage.setItem("tapedeck.listener", token);
  }
  // A command that names the track it leaves can be sent twice.
  const believed = track && command !== "play" ? `&track_id=${track.id}` : "";
  const body = await ask(`/sets/${token}/${command}?mix_id=${mix}${believed}`);
  if (!body) return;
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
at("next").addEventListener("click", () => move("next"));
at("skip").addEventListener("click", () => move("skip"));
audio.addEventListener("ended", () => move("next"));
audio.addEventListener("timeupdate", () => {
  if (!track || track.reported || audio.currentTime < 30) return;
  track.reported = true;
  ask(`/sets/${localStorage.getItem("tapedeck.listener")}/report?mix_id=${mix}&track_id=${track.id}`);
});
