// Wires the page: model picker, settings, files, keys, language and theme.

import { getJson } from "/console/api.js";
import * as live from "/console/live.js";
import * as talk from "/console/talk.js";
import { text, toggleLanguage, translate } from "/console/texts.js";

const MOST_BYTES = 16e6;
const $ = (id) => document.getElementById(id);
const sampling = $("sampling");
let file = null; // { name, text }

function request() {
  const form = new FormData(sampling);
  const options = { model: $("model").value, system: form.get("system").trim() };
  for (const name of ["temperature", "top_p", "top_k", "repetition_penalty", "max_tokens", "seed"]) {
    if (form.get(name) !== "") options[name] = Number(form.get(name));
  }
  return options;
}

function changed() {
  $("stop").hidden = !talk.isRunning();
  $("send").disabled = talk.isRunning();
}

function send(content) {
  if (!content.trim() || talk.isRunning()) return;
  const about = file;
  showFile(null);
  $("prompt").value = "";
  talk.ask(content, about, request, changed);
}

function showFile(next) {
  file = next;
  $("file").hidden = !file;
  if (!file) return;
  $("file-name").textContent = file.name;
  $("file-size").textContent = `${file.text.length.toLocaleString()} ${text("characters")}`;
}

async function open(chosen) {
  if (!chosen) return;
  $("error").hidden = true;
  const content = chosen.size > MOST_BYTES ? null : await chosen.text();
  const problem = content === null ? "tooLarge" : /\0|\ufffd/.test(content) ? "notText" : null;
  if (problem) {
    $("error").textContent = text(problem);
    $("error").hidden = false;
    return;
  }
  showFile({ name: chosen.name, text: content });
  $("prompt").focus();
}

function listen() {
  $("form").addEventListener("submit", (event) => {
    event.preventDefault();
    send($("prompt").value);
  });
  $("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send($("prompt").value);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") talk.stop();
  });
  $("stop").addEventListener("click", talk.stop);
  $("clear").addEventListener("click", talk.clear);
  $("file-remove").addEventListener("click", () => showFile(null));
  for (const button of document.querySelectorAll("[data-ask]")) {
    const name = button.dataset.ask === "summarise" ? "askSummarise" : "askItems";
    button.addEventListener("click", () => send(text(name)));
  }
  $("log").addEventListener("click", (event) => {
    const { turn, index } = event.target.dataset;
    if (turn === "again") talk.regenerate(request, changed);
    if (turn === "edit") {
      const taken = talk.takeBack(Number(index));
      $("prompt").value = taken.content;
      showFile(taken.document ?? null);
      $("prompt").focus();
    }
  });
  $("chooser").addEventListener("change", (event) => open(event.target.files[0]));
  $("open").addEventListener("keydown", (event) => {
    if (event.key === "Enter" || event.key === " ") $("chooser").click();
  });
  listenToDrops();
}

function listenToDrops() {
  let depth = 0;
  const show = (change) => {
    depth += change;
    $("drop").hidden = depth <= 0;
  };
  document.addEventListener("dragenter", () => show(1));
  document.addEventListener("dragleave", () => show(-1));
  document.addEventListener("dragover", (event) => event.preventDefault());
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    show(-depth);
    open(event.dataTransfer.files[0]);
  });
}

function keepSettings() {
  const kept = JSON.parse(localStorage.getItem("sampling") ?? "{}");
  for (const [name, value] of Object.entries(kept)) {
    if (sampling.elements[name]) sampling.elements[name].value = value;
  }
  sampling.addEventListener("change", () => {
    localStorage.setItem("sampling", JSON.stringify(Object.fromEntries(new FormData(sampling))));
  });
}

function chooseTheme() {
  const isDark = matchMedia("(prefers-color-scheme: dark)").matches;
  const root = document.documentElement;
  root.dataset.theme = localStorage.getItem("theme") ?? (isDark ? "dark" : "light");
  $("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    localStorage.setItem("theme", root.dataset.theme);
  });
}

async function listModels() {
  const models = (await getJson("/v1/models")).data;
  $("model").replaceChildren(...models.map(({ id }) => new Option(id, id)));
}

chooseTheme();
translate();
keepSettings();
listen();
changed();
$("language").addEventListener("click", () => {
  toggleLanguage();
  talk.render();
});
live.start();
listModels();
