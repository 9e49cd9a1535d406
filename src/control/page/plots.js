// The last hour and day as lines.
import { ask, byId, count, micros } from "./kit.js";

const [WIDTH, HEIGHT] = [300, 80];
// The document's own word for it.
const SVG = document.querySelector("#plots svg").namespaceURI;
let past = { hour: [], day: [] };
let shown = "hour";

function path(points, looks) {
  const made = document.createElementNS(SVG, "path");
  made.setAttribute("d", points);
  made.setAttribute("class", looks);
  return made;
}

/// Points of what is known; where nothing is, the line breaks.
function line(values, most, slots) {
  let pen = "M";
  return values.map((value, place) => {
    if (value == null) {
      pen = "M";
      return "";
    }
    const x = WIDTH * (slots - values.length + place + 1) / slots;
    const y = HEIGHT - 2 - (HEIGHT - 6) * value / most;
    const from = pen === "M" ? `M${(x - WIDTH / slots).toFixed(1)} ${y.toFixed(1)}L` : "L";
    pen = "L";
    return `${from}${x.toFixed(1)} ${y.toFixed(1)}`;
  }).join("");
}

function draw(id, name, series, words) {
  const known = series.flat().filter((value) => value != null);
  const most = Math.max(1, ...known);
  const slots = shown === "hour" ? 60 : 144;
  const last = series.map((values) => values.at(-1));
  const told = last.map((value) => value == null ? "–" : words(value));
  const parts = [];
  if (known.length > 0) {
    const first = line(series[0], most, slots);
    if (series.length === 1) {
      const start = WIDTH * (slots - series[0].length) / slots;
      parts.push(path(`${first}L${WIDTH} ${HEIGHT}L${start.toFixed(1)} ${HEIGHT}Z`, "area"));
    }
    parts.push(path(first, "line"));
    if (series[1]) parts.push(path(line(series[1], most, slots), "dashed"));
  }
  const into = byId(`${id}-plot`);
  into.replaceChildren(...parts);
  const at = series.length > 1 ? `p50 ${told[0]}, p99 ${told[1]}` : told[0];
  byId(`${id}-now`).textContent = known.length === 0 ? "none" : `${at} · most ${words(most)}`;
  const told_all = known.length === 0 ? "nothing yet" : `last ${at}, least ${words(Math.min(...known))}, most ${words(Math.max(...known))}`;
  into.setAttribute("aria-label", `${name} over the last ${shown}: ${told_all}`);
}

function show() {
  const values = past[shown];
  const rate = (value, one) => one.seconds ? value * 60 / one.seconds : value;
  const number = (value) => count(value < 10 ? Math.round(value * 10) / 10 : Math.round(value));
  draw("questions", "Questions a minute", [values.map((one) => rate(one.questions, one))], number);
  draw("refused", "Refusals a minute", [values.map((one) => rate(one.refused, one))], number);
  draw("gate", "Time added by the gate", [values.map((one) => one.gate_p50_us), values.map((one) => one.gate_p99_us)], micros);
  draw("leases", "Leases", [values.map((one) => one.leases)], number);
  const wait = shown === "hour" ? "a minute" : "ten minutes";
  byId("plots-note").textContent = values.length === 0 ? `The first point comes ${wait} after the start.` : "";
  for (const name of ["hour", "day"]) byId(name).setAttribute("aria-pressed", String(name === shown));
}

export async function plots() {
  past = await ask("/api/v1/history");
  show();
}

for (const name of ["hour", "day"]) {
  byId(name).addEventListener("click", () => {
    shown = name;
    show();
  });
}
