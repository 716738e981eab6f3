// Talking to the admin port. The token goes into a header, never into an address: so the events are
// read with fetch, because EventSource can send no header.

import { byId, text } from "./dom.js";

const KEPT = "tapedeck.admin-token";
const SILENT = 15000; // without a word for so many milliseconds the stream is dead

function headers() {
  const token = sessionStorage.getItem(KEPT);
  return token ? { Authorization: `Bearer ${token}` } : {};
}

// Asks for the token until somebody gives one.
function askForToken(again) {
  const dialog = byId("ask");
  if (again) text(byId("ask-why"), "That token was refused. Which one is it?");
  return new Promise((resolve) => {
    byId("token-form").onsubmit = () => {
      sessionStorage.setItem(KEPT, byId("token").value.trim());
      byId("token").value = "";
      resolve();
    };
    dialog.oncancel = (event) => event.preventDefault();
    if (!dialog.open) dialog.showModal();
    byId("token").focus();
  });
}

export class Refused extends Error {}

// The JSON that a path answers, to a question where there is one. Throws Refused with the server's own
// sentence.
export async function ask(path, question) {
  let answer;
  const more = question === undefined ? {} : { method: "POST", body: JSON.stringify(question) };
  try {
    answer = await fetch(path, { headers: headers(), cache: "no-store", ...more });
  } catch {
    throw new Refused("The admin port does not answer.");
  }
  const body = await answer.json().catch(() => null);
  if (answer.ok && body !== null) return body;
  throw new Refused(body?.errors?.join(" ") ?? `The admin port answered ${answer.status}.`);
}

// What stands behind a link, where the token is needed for it; without one the link does it.
export async function read(click, path) {
  if (sessionStorage.getItem(KEPT) === null) return null;
  click.preventDefault();
  const answer = await fetch(path, { headers: headers(), cache: "no-store" });
  return answer.blob();
}

// Calls `on[event](data)` for each event, for ever; `contact(state, detail)` says how the line is:
// live, waiting or lost.
export async function follow(path, on, contact) {
  let pause = 500;
  for (;;) {
    const cut = new AbortController();
    let watchdog;
    const alive = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => cut.abort(), SILENT);
    };
    try {
      alive();
      const answer = await fetch(path, { headers: headers(), cache: "no-store", signal: cut.signal });
      if (answer.status === 401) {
        clearTimeout(watchdog);
        contact("waiting", "needs the admin token");
        await askForToken(sessionStorage.getItem(KEPT) !== null);
        continue;
      }
      if (!answer.ok) throw new Error(`answered ${answer.status}`);
      pause = 500;
      const lines = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      on.begin();
      let rest = "";
      for (;;) {
        const { value, done } = await lines.read();
        if (done) break;
        alive();
        contact("live");
        const blocks = (rest + value).split("\n\n");
        rest = blocks.pop();
        for (const block of blocks) deliver(block, on);
      }
    } catch {
      // Whatever it was: the line is lost, and is tried again.
    }
    clearTimeout(watchdog);
    contact("lost");
    await new Promise((resolve) => setTimeout(resolve, pause));
    pause = Math.min(pause * 2, 5000);
  }
}

function deliver(block, on) {
  let name = "";
  let value = "";
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) value += line.slice(6);
  }
  if (Object.hasOwn(on, name)) on[name](JSON.parse(value));
}
