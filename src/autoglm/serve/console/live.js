// The live panel: what the service does now, and where the time of the last request went.

import { getJson } from "/console/api.js";
import { reason, text } from "/console/texts.js";
import * as waterfall from "/console/waterfall.js";

const EVERY_MS = 1000;
const MOST_POINTS = 60;
const speeds = [];
let before = null;

export function start() {
  tick();
  setInterval(tick, EVERY_MS);
  document.addEventListener("visibilitychange", tick);
}

async function tick() {
  if (document.hidden) return;
  try {
    show(await getJson("/console/status"));
  } catch {
    before = null; // the service is away; the next look may find it
  }
}

function show(status) {
  const tokens = status.completion_tokens;
  const now = performance.now();
  const seconds = before ? (now - before.now) / 1000 : 0;
  const speed = seconds > 0 ? Math.max(0, tokens - before.tokens) / seconds : 0;
  const cores = seconds > 0 ? Math.max(0, status.cpu_s - before.cpu_s) / seconds : 0;
  before = { now, tokens, cpu_s: status.cpu_s };
  speeds.push(speed);
  if (speeds.length > MOST_POINTS) speeds.shift();
  fill("figures", [
    ["tokensPerSecond", speed.toFixed(1)],
    ["running", `${status.running} / ${status.slots}`],
    ["waiting", `${status.waiting} / ${status.queue_limit}`],
    ["memory", `${(status.resident_bytes / 2 ** 20).toFixed(0)} MiB`],
    ["kv", `${status.kv_pages_held} / ${status.kv_pages}`],
    ["cores", `${cores.toFixed(1)} / ${status.threads}`],
    ["requests", status.requests],
    ["uptime", duration(status.uptime_s)],
  ]);
  draw();
  showLast(status.last);
}

function showLast(last) {
  if (!last) return;
  const read = Math.max(0, last.first_token_ms - last.queue_ms - last.load_ms);
  const write = Math.max(0, last.total_ms - last.first_token_ms);
  waterfall.show(last.layers);
  const phases = { queue: last.queue_ms, load: last.load_ms, read, write };
  fill("last", [
    ["model", last.model],
    ["firstToken", `${last.first_token_ms.toFixed(0)} ms`],
    ["why", reason(last.reason)],
    ["prompts", last.prompt_tokens],
    ["cached", last.cached_tokens],
    ["written", last.completion_tokens],
    ...Object.entries(phases).map(([name, ms]) => [name, `${ms.toFixed(0)} ms`, `key ${name}`]),
  ]);
  const bars = document.getElementById("phases");
  const times = Object.entries(phases).map(([name, ms]) => `${text(name)} ${ms.toFixed(0)} ms`);
  bars.setAttribute("aria-label", `${text("phases")}: ${times.join(", ")}`);
  bars.replaceChildren(
    ...Object.entries(phases).map(([name, ms]) => {
      const bar = document.createElement("span");
      bar.className = name;
      bar.style.flexGrow = 1000 * (ms / (last.total_ms || 1)); // below 1 in all it would not fill
      bar.title = `${text(name)} ${ms.toFixed(0)} ms`;
      return bar;
    }),
  );
}

function fill(id, rows) {
  const cells = rows.flatMap(([name, value, key]) => {
    const term = cell("dt", text(name));
    if (key) term.prepend(Object.assign(document.createElement("span"), { className: key }), " ");
    return [term, cell("dd", value)];
  });
  document.getElementById(id).replaceChildren(...cells);
}

function cell(kind, content) {
  const element = document.createElement(kind);
  element.textContent = content;
  return element;
}

function draw() {
  const top = Math.max(1, ...speeds);
  const points = speeds.map((speed, i) => `${(i * 120) / (MOST_POINTS - 1)},${31 - (speed / top) * 30}`);
  document.querySelector("#chart polyline").setAttribute("points", points.join(" "));
}

function duration(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 3600)}:${String(Math.floor(whole / 60) % 60).padStart(2, "0")}:${String(whole % 60).padStart(2, "0")}`;
}
