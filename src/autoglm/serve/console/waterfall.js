// The layers of the last request, each bar beginning where the one above it ended.

import { text } from "/console/texts.js";

export function show(layers) {
  const box = document.getElementById("waterfall");
  box.hidden = !layers?.read.length && !layers?.write.length;
  if (box.hidden) return;
  draw("read-layers", layers.read);
  draw("write-layers", layers.write);
}

function draw(id, rows) {
  const chart = document.getElementById(id);
  const total = rows.reduce((sum, row) => sum + row.attention_ms + row.rest_ms, 0);
  chart.previousElementSibling.hidden = chart.hidden = total === 0;
  if (total === 0) return;
  let before = 0;
  chart.replaceChildren(...rows.map((row) => {
    const line = document.createElement("div");
    const name = document.createElement("span");
    name.className = "name";
    name.textContent = nameOf(row);
    line.append(name, track(row, before, total));
    line.title = `${nameOf(row)}: ${text("attention")} ${row.attention_ms.toFixed(2)} ms, `
      + `${text("rest")} ${row.rest_ms.toFixed(2)} ms`;
    before += row.attention_ms + row.rest_ms;
    return line;
  }));
  const slowest = rows.reduce((a, b) => (a.attention_ms + a.rest_ms > b.attention_ms + b.rest_ms ? a : b));
  const most = (slowest.attention_ms + slowest.rest_ms).toFixed(1);
  chart.setAttribute("aria-label",
    `${text("layers")}: ${rows.length}, ${total.toFixed(1)} ms; ${text("slowest")} ${nameOf(slowest)}, ${most} ms`);
}

function nameOf(row) {
  return row.name === "embed" || row.name === "head" ? text(row.name) : String(Number(row.name) + 1);
}

function track(row, before, total) {
  const track = document.createElement("span");
  track.className = "track";
  const parts = [["", before], ["attention", row.attention_ms], ["rest", row.rest_ms]];
  track.append(...parts.map(([kind, ms]) => {
    const part = document.createElement("span");
    part.className = kind;
    part.style.width = `${(100 * ms) / total}%`;
    return part;
  }));
  return track;
}
