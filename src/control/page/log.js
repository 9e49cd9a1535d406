// The query log as it grows.
import { ask, at, badge, byId, clock, inTurn, micros, query, row, table } from "./kit.js";

const KEPT = 100;
const AGAIN_MS = 5000;
const HEADS = ["time", "client", "name", "type", "fate", "took"];
const LOOKS = { released: "good", cached: "good", local: "good", denied: "bad", filtered: "bad", refused: "care", failed: "care" };
let soon = 0;
let source = null;
let paused = false;
let held = [];

const filter = () => ({ client: byId("log-client").value.trim(), name: byId("log-name").value.trim(), fate: byId("log-fate").value });
const note = (text) => { byId("log-note").textContent = text; };

function made(q) {
  const fate = badge(q.fate, q.audit ? "care" : LOOKS[q.fate]);
  if (q.why) fate.title = q.audit ? `would be refused: ${q.why}` : q.why;
  const fresh = row(HEADS, [clock(q.time_ms), q.client, q.name, q.type, fate, micros(q.took_us)]);
  fresh.className = "new";
  return fresh;
}

function put(asked) {
  if (asked.length === 0) return;
  const body = byId("log").tBodies[0];
  body.querySelector(".none")?.parentElement.remove();
  body.prepend(...asked.slice(-KEPT).reverse().map(made));
  while (body.rows.length > KEPT) body.lastElementChild.remove();
}

function came(event) {
  const page = JSON.parse(event.data);
  note(page.lost ? "More came than can be shown; some are left out." : "");
  if (paused) {
    held = [...held, ...page.asked].slice(-KEPT);
    note(`Paused; ${held.length} new.`);
  } else {
    put(page.asked);
  }
}

// A browser comes back by itself when the connection breaks, and not when it is refused.
function lost(event) {
  note("The connection is lost; it is tried again.");
  if (event.target === source && source.readyState === EventSource.CLOSED) {
    clearTimeout(soon);
    soon = setTimeout(follow, AGAIN_MS);
  }
}

const turn = inTurn();

export async function follow() {
  const isNewest = turn();
  source?.close();
  source = null;
  held = [];
  table("log", HEADS, [], "nobody has asked yet");
  const words = filter();
  try {
    // An event source doesn't tell why it is refused.
    await ask(`/api/v1/log${query({ ...words, limit: 1 })}`);
  } catch (error) {
    if (isNewest()) note(`Not shown: ${error.message}.`);
    return;
  }
  if (!isNewest()) return;
  note("");
  source?.close();
  source = new EventSource(at(`/api/v1/log/events${query({ ...words, limit: KEPT })}`));
  source.addEventListener("asked", came);
  source.addEventListener("error", lost);
  source.addEventListener("open", () => note(""));
}

byId("log-form").addEventListener("input", () => {
  clearTimeout(soon);
  soon = setTimeout(follow, 300);
});
byId("log-form").addEventListener("submit", (event) => event.preventDefault());
byId("pause").addEventListener("click", () => {
  paused = !paused;
  byId("pause").setAttribute("aria-pressed", String(paused));
  note("");
  if (!paused) put(held);
  held = [];
});
