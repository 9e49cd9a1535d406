// What all parts of the page use. Everything is put in as text: names and reasons come from the network.

export const byId = (id) => document.getElementById(id);

/// Where a route is: without user and password, which the address of the page may have.
export const at = (path) => new URL(path, location.origin);

export async function ask(path) {
  const reply = await fetch(at(path), { cache: "no-store" });
  const body = await reply.json().catch(() => ({}));
  if (!reply.ok) {
    const error = new Error(body.error || `${path} answers ${reply.status}`);
    error.status = reply.status;
    throw error;
  }
  return body;
}

/// For requests of one kind, whose answers may come in any order: each call begins one, and what it returns says whether that is the newest still.
export function inTurn() {
  let newest = 0;
  return () => {
    newest += 1;
    const own = newest;
    return () => own === newest;
  };
}

/// A query string of what isn't empty.
export function query(fields) {
  const words = Object.entries(fields).filter(([, value]) => value !== "" && value != null);
  return words.length === 0 ? "" : `?${new URLSearchParams(words)}`;
}

export function span(seconds) {
  if (seconds == null) return "";
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172800) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} days`;
}

export function micros(value) {
  if (value == null) return "";
  if (value < 1000) return `${value} µs`;
  if (value < 1000000) return `${+(value / 1000).toPrecision(3)} ms`;
  return `${+(value / 1000000).toPrecision(3)} s`;
}

export const count = (value) => Number(value).toLocaleString("en");

export const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

export function element(kind, text, looks) {
  const made = document.createElement(kind);
  made.textContent = text == null ? "" : visible(String(text));
  if (looks) made.className = looks;
  return made;
}

/// Characters that turn or hide what stands beside them are shown as their numbers.
export function visible(text) {
  return text.replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g,
    (sign) => `\\u{${sign.codePointAt(0).toString(16)}}`);
}

const SHAPES = { good: "●", care: "◆", bad: "▲" };

/// A state told by shape and word, not by colour alone.
export function badge(word, how) {
  return element("span", `${SHAPES[how] || "○"} ${word}`, `badge ${how || ""}`);
}

function cell(kind, content, head) {
  const made = element(kind, content instanceof Node ? "" : content);
  if (content instanceof Node) made.append(content);
  if (head) made.dataset.head = head;
  return made;
}

export function row(heads, cells) {
  const made = document.createElement("tr");
  cells.forEach((content, place) => made.append(cell("td", content, heads[place])));
  return made;
}

/// Puts rows into a table; one that says the same as before stays, so that a focus in it stays too.
export function table(id, heads, rows, none = "none") {
  const into = byId(id);
  if (!into.tHead) {
    const head = document.createElement("tr");
    heads.forEach((text) => {
      const made = element("th", text);
      made.scope = "col";
      head.append(made);
    });
    into.createTHead().append(head);
    into.createTBody();
  }
  const made = rows.map((cells) => row(heads, cells));
  if (made.length === 0) {
    const empty = document.createElement("tr");
    const only = element("td", none, "none");
    only.colSpan = heads.length;
    empty.append(only);
    made.push(empty);
  }
  const body = into.tBodies[0];
  made.forEach((fresh, place) => {
    const old = body.rows[place];
    if (!old) body.append(fresh);
    else if (!old.isEqualNode(fresh)) old.replaceWith(fresh);
  });
  while (body.rows.length > made.length) body.lastElementChild.remove();
}

export function announce(text) {
  byId("said").textContent = text;
}

const PLAIN = /^[A-Za-z0-9_][A-Za-z0-9._-]*$/;

/// The command that allows a name, with a button that copies it; nothing for names that a shell might read otherwise.
export function allowing(name, client) {
  if (!PLAIN.test(name)) return null;
  const text = `destguard allow ${name.replace(/\.$/, "")} --for 1h${client ? ` --client ${client}` : ""}`;
  const button = element("button", "copy allow", "copy");
  button.type = "button";
  button.title = text;
  button.dataset.command = text;
  button.setAttribute("aria-label", `copy: ${text}`);
  return button;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button[data-command]");
  if (!button) return;
  const text = button.dataset.command;
  try {
    await navigator.clipboard.writeText(text);
    announce(`copied: ${text}`);
    button.textContent = "copied";
  } catch {
    // Without TLS a browser gives no clipboard but on this host: to be marked by hand.
    const shown = element("code", text);
    button.replaceWith(shown);
    getSelection().selectAllChildren(shown);
    announce(text);
  }
});
