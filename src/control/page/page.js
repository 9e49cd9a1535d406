"use strict";
// Shows what the interface answers. All of it is put in as text: names and reasons come from the network.

const EVERY_MS = 2000;
const LEASES_SHOWN = 200;
const DENIED_SHOWN = 100;
const byId = (id) => document.getElementById(id);

async function ask(path) {
  const reply = await fetch(path, { cache: "no-store" });
  const body = await reply.json();
  if (!reply.ok) throw new Error(body.error || `${path}: ${reply.status}`);
  return body;
}

function span(seconds) {
  if (seconds == null) return "";
  if (seconds < 120) return `${seconds}s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)}m`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)}h`;
  return `${Math.floor(seconds / 86400)}d`;
}

function element(kind, text) {
  const made = document.createElement(kind);
  made.textContent = text == null ? "" : String(text);
  return made;
}

function table(id, heads, rows) {
  const head = document.createElement("tr");
  heads.forEach((text) => head.append(element("th", text)));
  const made = rows.map((cells) => {
    const row = document.createElement("tr");
    cells.forEach((text) => row.append(element("td", text)));
    return row;
  });
  if (made.length === 0) {
    const row = document.createElement("tr");
    const none = element("td", "none");
    none.colSpan = heads.length;
    row.append(none);
    made.push(row);
  }
  byId(id).replaceChildren(head, ...made);
}

function show(status) {
  const state = byId("state");
  state.textContent = status.state;
  state.className = `state ${status.state}`;
  byId("reasons").textContent = [...status.reasons, ...status.warnings.map((one) => `warning: ${one}`)].join("; ");
  const figures = [
    ["up", span(status.uptime_seconds)],
    ["leases", `${status.leases.active} of ${status.leases.capacity}`],
    ["IPv4", status.leases.ipv4],
    ["IPv6", status.leases.ipv6],
    ["answers released", status.answers.released],
    ["denied", status.answers.denied],
    ["held at the gate", status.answers.held],
    ["gate time-outs", status.answers.gate_timeouts],
  ];
  byId("figures").replaceChildren(...figures.map(([name, value]) => {
    const pair = document.createElement("div");
    pair.append(element("dt", name), element("dd", value));
    return pair;
  }));
  table("enforcers", ["name", "state", "installed", "last error"],
    status.enforcers.map((e) => [e.name, e.state, e.installed, e.last_error]));
  table("upstreams", ["upstream", "state", "asked", "failed", "round trip", "last error"],
    status.upstreams.map((u) => [u.url, u.healthy ? "asked" : "left alone", u.asked, u.failed, u.rtt_ms == null ? "" : `${u.rtt_ms} ms`,
      u.last_error]));
}

function showPeers({ peers }) {
  table("peers", ["name", "address", "AS", "state", "for", "IPv4", "IPv6", "confirm", "latency", "last error"],
    peers.map((p) => [p.name, p.address, p.asn, p.state, span(p.since_seconds), p.advertised.ipv4, p.advertised.ipv6,
      p.confirm, p.confirm_latency_ms == null ? "" : `${p.confirm_latency_ms} ms`, p.last_error]));
}

function showLeases({ leases, next }) {
  byId("leases-note").textContent = next ? `the first ${leases.length}; ask for a name or a prefix to see others` : "";
  table("leases", ["address", "state", "ends in", "names", "clients", "enforcers"],
    leases.map((l) => [l.address, l.state, span(l.ends_in_seconds), l.names.join(", "), l.clients.join(", "),
      Object.entries(l.enforcers).map(([name, state]) => `${name}: ${state}`).join(", ")]));
}

function showDenied({ denied }) {
  table("denied", ["time", "kind", "what", "client", "reason", "times"],
    denied.slice(-DENIED_SHOWN).reverse().map((d) =>
      [new Date(d.time * 1000).toLocaleTimeString(), d.kind, d.what, d.client, d.reason, d.count]));
}

async function round() {
  const of = byId("of").value.trim();
  const search = of ? `&of=${encodeURIComponent(of)}` : "";
  const leases = ask(`/api/v1/leases?limit=${LEASES_SHOWN}${search}`).then(showLeases, (error) => {
    byId("leases-note").textContent = error.message;
  });
  try {
    await Promise.all([
      ask("/api/v1/status").then(show),
      ask("/api/v1/peers").then(showPeers),
      ask("/api/v1/denied").then(showDenied),
      leases,
    ]);
  } catch (error) {
    const state = byId("state");
    state.textContent = "no answer";
    state.className = "state unreachable";
    byId("reasons").textContent = error.message;
  }
}

async function go() {
  if (!document.hidden) await round();
  setTimeout(go, EVERY_MS);
}

byId("search").addEventListener("submit", (event) => {
  event.preventDefault();
  round();
});
go();
