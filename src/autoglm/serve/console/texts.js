// Every text of the console in Chinese and English.

const TEXTS = {
  zh: {
    skip: "跳到输入框", model: "模型", language: "English", theme: "切换深色或浅色", talk: "对话",
    empty: "提问，或把会议记录拖到这里。一切都在本机计算。", prompt: "输入消息", send: "发送", stop: "停止",
    open: "打开文件", clear: "清空", keys: "Ctrl+Enter 发送，Esc 停止", summarise: "总结",
    items: "行动项", orAsk: "或在下面提问", remove: "移除", live: "实时", last: "最近一次请求",
    settings: "采样设置", system: "系统提示", temperature: "温度", repetition: "重复惩罚",
    length: "最大长度", seed: "随机种子", dropHere: "松开以打开记录", edit: "编辑", again: "重新生成",
    you: "你", assistant: "模型", speed: "每秒词元数", phases: "最近一次请求的各阶段",
    askSummarise: "请总结以下会议记录要点", askItems: "请列出以下会议记录中的行动项和负责人",
    running: "运行中", waiting: "排队", memory: "内存", tokensPerSecond: "词元/秒", requests: "请求",
    cores: "忙碌的核", uptime: "运行时间", prompts: "输入词元", cached: "其中缓存", written: "输出词元",
    queue: "排队", load: "加载", read: "读入", write: "生成", firstToken: "首词元", why: "原因",
    local: "本机", cut: "长度用尽", tooLarge: "文件大于 16 MB", notText: "这不是文本文件",
    lost: "与服务的连接断开", kv: "KV 页", layers: "各层耗时", attention: "注意力", rest: "其余",
    slowest: "最慢", embed: "嵌入", head: "输出",
    file: "文件", characters: "字",
  },
  en: {
    skip: "Skip to the input", model: "Model", language: "中文", theme: "Dark or light", talk: "Conversation",
    empty: "Ask something, or drop a transcript here. Everything is computed on this device.",
    prompt: "Message", send: "Send", stop: "Stop", open: "Open file", clear: "Clear",
    keys: "Ctrl+Enter sends, Esc stops", summarise: "Summarise", items: "Action items",
    orAsk: "or ask below", remove: "Remove", live: "Live", last: "Last request",
    settings: "Sampling", system: "System prompt", temperature: "Temperature",
    repetition: "Repetition penalty", length: "Longest answer", seed: "Seed",
    dropHere: "Let go to open the transcript", edit: "Edit", again: "Regenerate", you: "You",
    assistant: "Model", speed: "Tokens a second", phases: "Phases of the last request",
    askSummarise: "Summarize the meeting", askItems: "List the action items and who does them",
    running: "Running", waiting: "Waiting", memory: "Memory", tokensPerSecond: "Tokens/s",
    requests: "Requests", cores: "Cores busy", uptime: "Up", prompts: "Prompt tokens",
    cached: "of these cached", written: "Answer tokens", queue: "Queue", load: "Load", read: "Read",
    write: "Write", firstToken: "First token", why: "Why", local: "this device",
    cut: "cut at the longest", tooLarge: "The file is larger than 16 MB",
    notText: "This is no text file", lost: "The connection to the service is lost", kv: "KV pages",
    layers: "Layers", attention: "attention", rest: "the rest", slowest: "slowest", embed: "in",
    head: "out", file: "File", characters: "characters",
  },
};

// What the service says about where an answer was computed, in Chinese.
const REASONS = [
  [/^offline$/, "离线"],
  [/^answered on this device$/, "在本机回答"],
  [/^extracted from the text$/, "从原文摘取"],
  [/^answered before$/, "此前答过"],
  [/^the text is longer than the context window and was read in (\d+) parts$/, "文本超过窗口，分 $1 段读入"],
];

let language = localStorage.getItem("language")
  ?? (navigator.language.startsWith("zh") ? "zh" : "en");

export function text(name) {
  return TEXTS[language][name];
}

// A reason of the service in the page's language; one it does not know stays English.
export function reason(english) {
  if (language === "en") return english;
  const told = english.split("; ").map((part) => {
    const known = REASONS.find(([pattern]) => pattern.test(part));
    return known ? part.replace(...known) : part;
  });
  return told.join("；");
}

export function toggleLanguage() {
  language = language === "zh" ? "en" : "zh";
  localStorage.setItem("language", language);
  translate();
}

// Writes the texts into the elements that name them.
export function translate() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  const write = (attribute, put) => {
    for (const element of document.querySelectorAll(`[data-${attribute}]`)) {
      put(element, text(element.dataset[attribute]));
    }
  };
  write("text", (element, value) => { element.textContent = value; });
  write("title", (element, value) => {
    element.title = value;
    element.setAttribute("aria-label", value);
  });
  write("label", (element, value) => element.setAttribute("aria-label", value));
  write("placeholder", (element, value) => { element.placeholder = value; });
  document.getElementById("language").textContent = text("language");
}
