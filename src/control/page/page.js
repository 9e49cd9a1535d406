// Shows what the interface answers, and asks again.
import { allowing, ask, badge, byId, clock, count, element, inTurn, micros, query, span, table } from "./kit.js";
import { follow } from "./log.js";
import { plots } from "./plots.js";
import "./explain.js";

const EVERY_MS = 2000;
const SLOWLY_MS = 15000;
const LEASES_SHOWN = 100;
const DENIED_SHOWN = 100;
const STATES = {
  enforcing: ["● enforcing", "good"],
  audit: ["◆ audit: nothing is refused", "care"],
  starting: ["◆ starting", "care"],
  degraded: ["▲ degraded", "bad"],
};

const sentence = (text) => {
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
};

function state(text, how, reasons) {
  const into = byId("state");
  if (into.textContent !== text) into.textContent = text;
  into.className = `state ${how}`;
  const made = reasons.map(([words, looks]) => element("li", sentence(words), looks));
  const list = byId("reasons");
  const same = list.children.length === made.length && made.every((one, place) => one.isEqualNode(list.children[place]));
  // Read aloud only when it changes.
  if (!same) list.replaceChildren(...made);
}

function show(status) {
  const [text, how] = STATES[status.state] || [status.state, "care"];
  state(text, how, [
    ...status.reasons.map((words) => [words, how]),
    ...status.warnings.map((words) => [`warning: ${words}`, "care"]),
  ]);
  byId("since").textContent = `up for ${span(status.uptime_seconds)}`;
  const { leases, answers } = status;
  const figures = [
    ["leases", count(leases.active), `of ${count(leases.capacity)}`],
    ["IPv4 / IPv6", `${count(leases.ipv4)} / ${count(leases.ipv6)}`],
    ["answers released", count(answers.released)],
    ["denied", count(answers.denied)],
    ["refused", count(answers.refused)],
    ["held at the gate", count(answers.held)],
    ["gate time-outs", count(answers.gate_timeouts)],
  ];
  if (status.state === "audit") figures.push(["would refuse", count(answers.would_refuse)]);
  byId("figures").replaceChildren(...figures.map(([name, value, more]) => {
    const pair = document.createElement("div");
    const told = element("dd", value);
    if (more) told.append(element("small", ` ${more}`));
    pair.append(element("dt", name), told);
    return pair;
  }));
  const held = { "in-force": "good", lost: "bad" };
  table("enforcers", ["name", "state", "for", "installed", "last error"],
    status.enforcers.map((e) => [e.name, badge(e.state, held[e.state] || "care"), span(e.since_seconds), count(e.installed), e.last_error]));
  showHours(status);
  const heard = { healthy: "good", broken: "bad" };
  table("upstreams", ["upstream", "state", "asked", "failed", "round trip", "last error"],
    status.upstreams.map((u) => [u.url, badge(u.state, heard[u.state] || "care"), count(u.asked), count(u.failed),
      u.rtt_ms == null ? "" : `${u.rtt_ms} ms`, u.last_error]));
}

function showHours(status) {
  const { in_hours: inside = [], out_of_hours: outside = [] } = status;
  byId("schedules").hidden = inside.length + outside.length === 0;
  table("hours", ["what", "now", "until", "key"], [
    ...inside.map((one) => [one.what, badge("in force", "good"), one.until || "for ever", one.key]),
    ...outside.map((one) => [one.what, badge("out of its hours", "care"), one.until || "for ever", one.key]),
  ]);
}

function showPeers({ peers }) {
  byId("routers").hidden = peers.length === 0;
  table("peers", ["name", "address", "AS", "state", "for", "IPv4", "IPv6", "confirm", "p50", "p99", "last error"],
    peers.map((p) => [p.name, p.address, p.asn, badge(p.state, p.state === "Established" ? "good" : "bad"), span(p.since_seconds),
      count(p.advertised.ipv4), count(p.advertised.ipv6), p.confirm, micros(p.confirmations?.p50_us), micros(p.confirmations?.p99_us),
      p.unconfirmed || p.warning || p.last_error]));
}

// Where the pages before this one began.
let before = [];
let after = "";
let next = "";

function showLeases(page) {
  next = page.next || "";
  const first = before.length * LEASES_SHOWN;
  const shown = page.leases.length;
  byId("leases-note").textContent = shown === 0 ? "" : `${count(first + 1)} to ${count(first + shown)}${next ? ", and more" : ""}`;
  byId("leases-first").disabled = before.length === 0;
  byId("leases-back").disabled = before.length === 0;
  byId("leases-next").disabled = !next;
  const looks = { installed: "good", pending: "care", lingering: "" };
  table("leases", ["address", "state", "ends in", "names", "clients", "enforcers"],
    page.leases.map((l) => [l.address, badge(l.state, looks[l.state]), span(l.ends_in_seconds), l.names.join(", "), l.clients.join(", "),
      Object.entries(l.enforcers).map(([name, how]) => `${name}: ${how}`).join(", ")]));
}

const leasesTurn = inTurn();

async function leases() {
  const isNewest = leasesTurn();
  try {
    const page = await ask(`/api/v1/leases${query({ of: byId("leases-of").value.trim(), after, limit: LEASES_SHOWN })}`);
    if (isNewest()) showLeases(page);
  } catch (error) {
    if (isNewest()) byId("leases-note").textContent = `Not shown: ${error.message}.`;
  }
}

function turn(to) {
  if (to === "next") {
    // Until the answer is there, nobody knows what comes behind it.
    if (!next) return;
    before.push(after);
    [after, next] = [next, ""];
  } else if (to === "back") {
    after = before.pop() || "";
  } else {
    [before, after] = [[], ""];
  }
  leases();
}

let denied = [];

function showDenied() {
  const [client, kind, text] = ["denied-client", "denied-kind", "denied-text"].map((id) => byId(id).value.trim().toLowerCase());
  const fits = denied.filter((d) => (!client || (d.client || "").startsWith(client)) && (!kind || d.kind === kind)
    && (!text || `${d.what} ${d.reason}`.toLowerCase().includes(text)));
  const shown = fits.slice(-DENIED_SHOWN).reverse();
  byId("denied-note").textContent = shown.length < denied.length ? `${shown.length} of the last ${denied.length}` : "";
  table("denied", ["time", "kind", "what", "client", "why", "times", "allow"],
    shown.map((d) => [clock(d.time * 1000), d.kind, d.what, d.client, d.audit ? `${d.reason} (audit: only noted)` : d.reason, count(d.count),
      d.kind === "name" ? allowing(d.what, d.client) : ""]));
}

async function top() {
  let most;
  try {
    most = await ask("/api/v1/top?since=3600&limit=10");
  } catch {
    byId("top").hidden = true;
    return;
  }
  table("top-clients", ["client", "questions", "denied"], most.clients.map((one) => [one.client, count(one.questions), count(one.denied)]));
  table("top-names", ["name", "questions"], most.names.map((one) => [one.name, count(one.questions)]));
  table("top-denied", ["name", "times", "why"], most.denied.map((one) => [one.name, count(one.count), one.why]));
  byId("top").hidden = false;
}

async function round() {
  try {
    await Promise.all([
      ask("/api/v1/status").then(show),
      ask("/api/v1/peers").then(showPeers),
      ask("/api/v1/denied").then((page) => {
        ({ denied } = page);
        showDenied();
      }),
      leases(),
    ]);
  } catch (error) {
    state("✕ no answer", "bad", [[`the guard does not answer: ${error.message}`, "bad"]]);
  }
}

async function often(work, every) {
  if (!document.hidden) await work().catch(() => {});
  setTimeout(often, every, work, every);
}

byId("leases-form").addEventListener("submit", (event) => {
  event.preventDefault();
  turn("first");
});
for (const to of ["first", "back", "next"]) byId(`leases-${to}`).addEventListener("click", () => turn(to));
byId("denied-form").addEventListener("input", showDenied);
byId("denied-form").addEventListener("submit", (event) => event.preventDefault());
often(round, EVERY_MS);
often(plots, SLOWLY_MS);
often(top, SLOWLY_MS);
follow();
