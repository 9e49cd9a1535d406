// The explain box: what the interface knows of a name or an address, in words.
import { allowing, ask, badge, byId, count, element, inTurn, query, span } from "./kit.js";

const TYPES = { 1: "A", 28: "AAAA", 64: "SVCB", 65: "HTTPS" };
const of = (names, most) => names.length > most ? `${names.slice(0, most).join(", ")} and ${names.length - most} more` : names.join(", ");

function headline(x) {
  const verdict = x.now.verdict;
  const pending = x.addresses.length > 0 && !x.open;
  if (verdict === "always open") return ["always open", "good"];
  if (x.open && (verdict === "denied" || verdict === "filtered")) return [`open still, ${verdict} from now on`, "care"];
  if (x.open) return ["open", "good"];
  if (pending) return ["opening", "care"];
  if (verdict === "denied") return ["denied", "bad"];
  if (verdict === "filtered") return ["filtered", "bad"];
  if (verdict === "failed") return ["no answer", "bad"];
  if (verdict === "answered here") return ["answered here", "good"];
  return ["closed", "care"];
}

function judgement(x) {
  const words = {
    allowed: "A question for it is allowed now.",
    denied: "A question for it is denied now.",
    filtered: "An answer with it is filtered now.",
    "always open": "It is always open.",
    "answered here": "The guard answers it by itself; no upstream is asked.",
    failed: "No upstream gives an answer for it.",
  };
  const said = [words[x.now.verdict] || `The verdict is ${x.now.verdict}.`];
  if (x.now.reason) said.push(`Reason: ${x.now.reason}.`);
  if (x.now.rule) said.push(`Rule: ${x.now.rule}${x.now.place ? `, ${x.now.place}` : ""}.`);
  return said.join(" ").replaceAll("..", ".");
}

function cause(c) {
  const type = c.qtype == null ? "" : ` (${TYPES[c.qtype] || `type ${c.qtype}`})`;
  const chain = c.chain?.length ? `, by its alias ${of(c.chain, 3)}` : "";
  const who = c.clients?.length ? of(c.clients.map((one) => one.client), 4) : "Somebody";
  return `${who} asked for ${c.question}${type}${chain}; this ends in ${span(c.ends_in_seconds)}.`;
}

function address(a) {
  const parts = [];
  const state = { pending: "is being opened", installed: "is open", lingering: "is over; its route stays a while" }[a.state] || a.state;
  const lease = a.state === "lingering" ? "" : `, for ${span(a.age_seconds)} by now, and closes in ${span(a.ends_in_seconds)}`;
  parts.push(element("p", `${a.address} ${state}${lease}.`));
  const list = document.createElement("ul");
  a.causes.slice(0, 8).forEach((one) => list.append(element("li", cause(one))));
  if (a.causes.length > 8) list.append(element("li", `${a.causes.length - 8} more questions opened it.`));
  if (a.open_for) list.append(element("li", `It is open for ${of(a.open_for.map((one) => one.client), 6) || "nobody"} only.`));
  (a.open_ports || []).forEach((one) => list.append(element("li", `${one.port}${one.client ? ` for ${one.client}` : ""}${one.application ? ` for application ${one.application} alone` : ""}: opened by ${of(one.names, 6)}.`)));
  a.enforcers.forEach((h) => {
    const since = h.since_seconds == null ? "" : ` for ${span(h.since_seconds)}`;
    list.append(element("li", `At ${h.name} it is ${h.state}${since}${h.required ? "" : " (not required)"}.`));
  });
  if (a.waiting) list.append(element("li", `${count(a.waiting)} answers wait for it at the gate.`));
  parts.push(list);
  return parts;
}

function show(x, client) {
  const [word, how] = headline(x);
  const title = element("h3", "");
  title.append(badge(word, how), element("span", ` ${x.query}${client ? ` for ${client}` : ""}`));
  const parts = [title, element("p", judgement(x))];
  x.addresses.slice(0, 8).forEach((one) => parts.push(...address(one)));
  if (x.addresses.length > 8) parts.push(element("p", `${x.addresses.length - 8} more addresses of it are leased.`, "muted"));
  if (x.addresses.length === 0 && x.now.verdict === "allowed") parts.push(element("p", "Nothing is leased: nobody asked lately. The next answer opens it."));
  (x.answers || []).forEach((one) => parts.push(element("p", `${one.qtype}: ${one.verdict}${one.reason ? `, ${one.reason}` : ""}.`)));
  (x.ended || []).slice(0, 4).forEach((one) =>
    parts.push(element("p", `${one.address} was open for ${of(one.names, 3) || "a name"} until ${span(one.seconds_ago)} ago: ${one.how}.`)));
  if (x.refused) {
    const who = of(x.refused.clients.map((one) => `${one.client} (${count(one.packets)})`), 4);
    parts.push(element("p", `${count(x.refused.packets)} packets to it were refused, of ${who}.`));
  }
  if (x.now.verdict === "denied") {
    const button = allowing(x.query, client);
    if (button) {
      const line = element("p", "To allow it for an hour: ", "command");
      line.append(element("code", button.dataset.command), button);
      parts.push(line);
    }
  }
  byId("verdict").replaceChildren(...parts);
}

const turn = inTurn();

export async function explain() {
  const client = byId("client").value.trim();
  const subject = byId("of").value.trim();
  if (!subject) return;
  const isNewest = turn();
  try {
    const explained = await ask(`/api/v1/explain${query({ of: subject, client })}`);
    if (isNewest()) show(explained, client);
  } catch (error) {
    if (isNewest()) byId("verdict").replaceChildren(element("p", `This can't be explained: ${error.message}.`));
  }
}

byId("explain-form").addEventListener("submit", (event) => {
  event.preventDefault();
  explain();
});
