// The conversation: its turns, the one that grows, and what can be done with each.

import { chat } from "/console/api.js";
import { reason, text } from "/console/texts.js";

const log = document.getElementById("log");
const error = document.getElementById("error");
const turns = []; // { role, content, document?, about? }
let running = null; // the AbortController of the answer that grows

export const isRunning = () => running !== null;

export function stop() {
  running?.abort();
}

export function clear() {
  stop();
  turns.length = 0;
  render();
}

// Asks `content`, about a document if there is one, with what `request` says besides.
export async function ask(content, file, request, changed) {
  turns.push({ role: "user", content, document: file });
  await answer(request, changed);
}

export async function regenerate(request, changed) {
  while (turns.length && turns.at(-1).role === "assistant") turns.pop();
  if (turns.length) await answer(request, changed);
}

// Takes the turns from `index` on back; returns what was asked there.
export function takeBack(index) {
  const [turn] = turns.splice(index);
  render();
  return turn;
}

async function answer(request, changed) {
  stop();
  error.hidden = true;
  const controller = new AbortController();
  running = controller;
  const turn = { role: "assistant", content: "", about: "" };
  const { system, ...options } = request();
  const messages = turns.map(({ role, content }) => ({ role, content }));
  if (system) messages.unshift({ role: "system", content: system });
  const file = turns.at(-1).document;
  turns.push(turn);
  render();
  log.setAttribute("aria-busy", "true");
  changed();
  try {
    const body = { ...options, messages, layers: true, ...(file ? { document: file.text } : {}) };
    for await (const event of chat(body, controller.signal)) {
      const choice = event.choices[0];
      if (choice?.delta.content) {
        turn.content += choice.delta.content;
        grow(turn);
      }
      if (event.autoglm) turn.about = about(event.autoglm, choice?.finish_reason);
    }
  } catch (err) {
    if (err.name !== "AbortError") {
      error.textContent = err instanceof TypeError ? text("lost") : err.message;
      error.hidden = false;
      if (!turn.content) turns.splice(turns.indexOf(turn), 1);
    }
  } finally {
    if (running === controller) running = null;
    log.setAttribute("aria-busy", "false");
    render();
    changed();
  }
}

function about(facts, finish) {
  const parts = [
    `${facts.engine === "local" ? text("local") : facts.engine} · ${facts.model}`,
    `${text("why")}: ${reason(facts.reason)}`,
    `${text("firstToken")} ${Math.round(facts.first_token_ms)} ms`,
  ];
  if (finish === "length") parts.push(text("cut"));
  return parts.join(" · ");
}

function grow(turn) {
  const body = log.children[turns.indexOf(turn)]?.querySelector(".body");
  if (!body) return;
  const isAtEnd = log.scrollTop + log.clientHeight >= log.scrollHeight - 40;
  body.textContent = turn.content;
  if (isAtEnd) log.scrollTop = log.scrollHeight;
}

export function render() {
  log.replaceChildren(...turns.map(item));
  log.scrollTop = log.scrollHeight;
}

function item(turn, index) {
  const element = document.createElement("li");
  element.className = turn.role;
  element.setAttribute("aria-label", text(turn.role === "user" ? "you" : "assistant"));
  const body = document.createElement("p");
  body.className = "body";
  body.textContent = turn.content;
  element.append(body);
  if (turn.document) element.append(note(`${text("file")}: ${turn.document.name}`));
  if (turn.about) element.append(note(turn.about));
  const isLast = index === turns.length - 1;
  const name = turn.role === "user" ? "edit" : "again";
  if (!isRunning() && (turn.role === "user" || isLast)) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text(name);
    button.dataset.turn = name;
    button.dataset.index = index;
    const tools = document.createElement("div");
    tools.className = "tools";
    tools.append(button);
    element.append(tools);
  }
  return element;
}

function note(content) {
  const element = document.createElement("p");
  element.className = "about";
  element.textContent = content;
  return element;
}
