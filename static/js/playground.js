// The playground: asks, shows tokens as they come, keeps the conversation in this tab alone.

const root = document.getElementById("playground");
const { EventParser, ThoughtSplitter, deltaOf, money, statsLine } = await import(root.dataset.module);
const $ = (id) => document.getElementById(id);
const [transcript, prompt, form] = [$("transcript"), $("prompt"), $("composer")];
const thinks = Boolean(root.dataset.thinks);
const presets = JSON.parse(root.dataset.presets);

// {turns: [{role, text, thought, thoughtFor, stats, failure}], params}: what this tab remembers.
const state = load();
let running = null; // {controller, turn, view, …} while an answer streams
let editing = false;

// -- what is remembered ---------------------------------------------------------------------------------

function load() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(root.dataset.key)) ?? {};
    return { turns: Array.isArray(kept.turns) ? kept.turns : [], params: kept.params ?? null, draft: kept.draft ?? "" };
  } catch {
    return { turns: [], params: null, draft: "" };
  }
}

function save() {
  state.params = params();
  state.draft = prompt.value;
  try {
    sessionStorage.setItem(root.dataset.key, JSON.stringify(state));
  } catch {
    announce("This browser has no room left to remember the conversation: a reload would lose it.");
  }
}

// -- parameters ---------------------------------------------------------------------------------------

const preset = () => (thinks && $("thinking").checked ? presets.thinking : presets.plain);

function params() {
  const number = (id) => ($(id).value === "" ? null : Number($(id).value));
  return {
    system: $("system").value,
    thinking: thinks ? $("thinking").checked : null,
    temperature: number("temperature"),
    top_p: number("top_p"),
    max_tokens: number("max_tokens"),
  };
}

function showParams(p) {
  $("system").value = p.system ?? "";
  if (thinks && typeof p.thinking === "boolean") $("thinking").checked = p.thinking;
  for (const id of ["temperature", "top_p", "max_tokens"]) if (p[id] != null) $(id).value = p[id];
}

function advise() {
  const { temperature, top_p, top_k } = preset();
  const mode = thinks ? ($("thinking").checked ? ", thinking" : ", not thinking") : "";
  $("advice").textContent = `The model's advice${mode}: ${temperature} / ${top_p}${top_k ? `, top-k ${top_k} (always sent)` : ""}.`;
}

function takeAdvice() {
  $("temperature").value = preset().temperature;
  $("top_p").value = preset().top_p;
  advise();
  save();
}

// The body of a request, and the same for "view code".
function ask(turns) {
  const p = params();
  const body = { messages: turns.filter((t) => t.text.trim()).map((t) => ({ role: t.role, content: t.text })) };
  if (p.system.trim()) body.system = p.system;
  for (const key of ["temperature", "top_p", "max_tokens", "thinking"]) if (p[key] !== null) body[key] = p[key];
  return body;
}

// -- drawing ----------------------------------------------------------------------------------------

function announce(text) {
  $("announce").textContent = text;
}

function drawTurn(turn) {
  const view = $(turn.role === "user" ? "t-user" : "t-answer").content.firstElementChild.cloneNode(true);
  const part = (name) => view.querySelector(`.${name}`);
  transcript.append(view);
  if (turn.role === "user") part("text").textContent = turn.text;
  else {
    part("text").classList.add("plain");
    part("text").textContent = visible(turn.text);
    part("thought-text").textContent = visible(turn.thought ?? "");
    finish(view, turn);
  }
  return view;
}

// An answer that is over: folded thought, failure with its retry, figures.
function finish(view, turn) {
  const part = (name) => view.querySelector(`.${name}`);
  view.classList.remove("streaming");
  part("waiting").hidden = true;
  part("thought").hidden = !turn.thought;
  part("thought").open = false;
  part("thought-word").textContent = turn.thoughtFor == null ? "thought" : `thought for ${duration(turn.thoughtFor)}`;
  part("failure").hidden = !turn.failure;
  part("failure-text").textContent = turn.failure ?? "";
  const stats = part("stats");
  stats.textContent = turn.stats ? statsLine(turn.stats, { thought: Boolean(turn.thought) }) : "";
  stats.title = turn.stats ? explain(turn.stats) : "";
  view.querySelector('[data-do="copy"]').hidden = !turn.text;
}

const duration = (s) => (s < 10 ? `${s < 1 ? s.toFixed(1) : Math.round(s)} s` : `${Math.round(s)} s`);

function explain(s) {
  const cost = s.usd == null ? "The cost is not known." : `${money(s.usd)} is the machine's price for the ${s.seconds ?? "n/a"} s that the answer took, whoever else used it then.`;
  return `TTFT: from the panel's receipt of the question to the first token of either kind. ${cost} Last: why the engine ended.`;
}

function mark() {
  const views = [...transcript.children];
  views.forEach((v, i) => v.classList.toggle("last", i >= views.length - (state.turns.at(-1)?.role === "user" ? 1 : 2)));
  $("blank").hidden = views.length > 0;
  $("clear").disabled = views.length === 0;
}

// Answers become HTML on the server (Markdown through an allow-list). Until then, and should that fail, they stay text.
async function drawMarkdown(pairs) {
  const wanted = pairs.filter(([turn]) => turn.role === "assistant" && turn.text);
  if (!wanted.length) return;
  let html;
  try {
    const response = await fetch(root.dataset.render, request({ texts: wanted.map(([turn]) => turn.text) }));
    ({ html } = await response.json());
  } catch {
    return;
  }
  const stick = atBottom();
  wanted.forEach(([, view], i) => {
    if (typeof html?.[i] !== "string") return;
    const text = view.querySelector(".text");
    text.innerHTML = html[i];
    text.classList.replace("plain", "drawn");
    text.querySelectorAll("pre").forEach(withCopy);
  });
  if (stick) toBottom();
}

function withCopy(pre) {
  const block = document.createElement("div");
  block.className = "code-block";
  pre.replaceWith(block);
  const button = document.createElement("button");
  button.type = "button";
  button.className = "button";
  button.textContent = "Copy code";
  button.addEventListener("click", () => copy(pre.textContent, button, pre));
  pre.tabIndex = 0;
  pre.setAttribute("role", "group");
  pre.setAttribute("aria-label", "Code");
  block.append(pre, button);
}

async function copy(text, label, source) {
  const word = label.textContent;
  try {
    await navigator.clipboard.writeText(text);
    label.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(source);
    label.textContent = "Selected: press Ctrl+C";
  }
  setTimeout(() => (label.textContent = word), 2000);
}

const atBottom = () => innerHeight + scrollY >= document.documentElement.scrollHeight - 80;
const toBottom = () => scrollTo({ top: document.documentElement.scrollHeight });

// -- the stream --------------------------------------------------------------------------------------

const request = (body) => ({
  method: "POST",
  headers: { "Content-Type": "application/json", "X-CSRFToken": $("csrf").value },
  credentials: "same-origin",
  body: JSON.stringify(body),
});

async function answer() {
  const turn = { role: "assistant", text: "", thought: "" };
  const body = ask(state.turns);
  state.turns.push(turn);
  const view = drawTurn(turn);
  view.classList.add("streaming");
  view.querySelector(".waiting").hidden = false;
  const run = (running = { controller: new AbortController(), turn, view, began: performance.now(), pending: ["", ""], usdPerHour: null });
  mark();
  busy(true);
  toBottom();
  try {
    await stream(run, body);
  } catch (error) {
    if (run.controller.signal.aborted) turn.stats = { ...localStats(run), finish_reason: "stopped" };
    else turn.failure = error instanceof Failure ? error.message : "The connection to the panel broke: the answer is not complete.";
  }
  paint(run);
  endThought(run);
  turn.stats ??= run.first ? localStats(run) : undefined;
  finish(view, turn);
  running = null;
  busy(false);
  save();
  announce(turn.failure ? `Error: ${turn.failure}` : turn.stats?.finish_reason === "stopped" ? "Stopped." : "The answer is complete.");
  await drawMarkdown([[turn, view]]);
}

class Failure extends Error {}

async function stream(run, body) {
  const response = await fetch(root.dataset.stream, { ...request(body), signal: run.controller.signal });
  if (!response.headers.get("Content-Type")?.startsWith("text/event-stream")) throw new Failure(await sentence(response));
  run.usdPerHour = Number(response.headers.get("X-Regia-Usd-Per-Hour") || NaN);
  const [parser, splitter, decoder] = [new EventParser(), new ThoughtSplitter(), new TextDecoder()];
  const reader = response.body.getReader();
  for (;;) {
    const { done, value } = await reader.read();
    for (const event of parser.push(done ? decoder.decode() : decoder.decode(value, { stream: true }))) receive(run, event, splitter);
    if (done) break;
  }
  const [thought, text] = splitter.end();
  add(run, thought, text);
  if (run.turn.failure) return;
  if (!run.turn.stats) throw new Failure("The stream ended early: the answer is not complete.");
}

async function sentence(response) {
  try {
    return (await response.json()).error ?? `The panel answered with an error (${response.status}).`;
  } catch {
    return `The panel answered with an error (${response.status}).`;
  }
}

function receive(run, event, splitter) {
  if (event.data === "[DONE]") return;
  let data;
  try {
    data = JSON.parse(event.data);
  } catch {
    return;
  }
  if (event.name === "regia") run.turn.stats = data;
  else if (event.name === "error") run.turn.failure = data.error;
  else {
    const { thought, answer } = deltaOf(data, splitter);
    add(run, thought, answer);
  }
}

// Tokens are gathered and drawn once a frame; a hidden tab draws them when it is over.
function add(run, thought, text) {
  if (!thought && !text) return;
  if (!run.first) {
    run.first = performance.now();
    announce("The answer begins.");
  }
  run.pending[0] += thought;
  run.pending[1] += text;
  run.frame ??= requestAnimationFrame(() => paint(run));
}

// What hides or turns text is shown, as the server does when it draws it (panel/visible.py).
function visible(text) {
  const hidden = /[\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff\u{e0000}-\u{e007f}]/gu;
  return text.replace(hidden, (c) => `<U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);
}

function paint(run) {
  cancelAnimationFrame(run.frame);
  run.frame = undefined;
  const [thought, text] = run.pending;
  if (!thought && !text) return;
  run.pending = ["", ""];
  const stick = atBottom();
  const part = (name) => run.view.querySelector(`.${name}`);
  part("waiting").hidden = true;
  if (thought) {
    run.thinkingSince ??= run.first;
    if (part("thought").hidden) {
      part("thought").hidden = false;
      part("thought").open = true;
    }
    run.turn.thought += thought;
    part("thought-text").append(visible(thought));
    part("thought-text").scrollTop = part("thought-text").scrollHeight;
  }
  if (text) {
    if (run.turn.thought && text.trim()) endThought(run);
    run.turn.text += text;
    part("text").append(visible(text));
  }
  if (stick) toBottom();
  if (performance.now() - (run.saved ?? 0) > 1000) {
    run.saved = performance.now();
    save();
  }
}

function endThought(run) {
  if (!run.turn.thought || run.turn.thoughtFor != null) return;
  run.turn.thoughtFor = (performance.now() - run.thinkingSince) / 1000;
  run.view.querySelector(".thought").open = false;
  run.view.querySelector(".thought-word").textContent = `thought for ${duration(run.turn.thoughtFor)}`;
}

// What this browser knows of an answer that ended before the panel could tell.
function localStats(run) {
  const seconds = (performance.now() - run.began) / 1000;
  return {
    ttft: run.first ? (run.first - run.began) / 1000 : null,
    seconds: Math.round(seconds * 1000) / 1000,
    tokens_per_second: null,
    prompt_tokens: null,
    completion_tokens: null,
    thinking_tokens: null,
    finish_reason: null,
    usd: Number.isFinite(run.usdPerHour) ? String((run.usdPerHour * seconds) / 3600) : null,
  };
}

const stop = () => running?.controller.abort();

// -- acts ----------------------------------------------------------------------------------------------

function busy(is) {
  $("send").hidden = is;
  $("stop").hidden = !is;
  ready();
  if (!is) prompt.focus({ preventScroll: true });
}

function ready() {
  const up = Boolean($("engine")?.dataset.ready);
  $("send").disabled = !up;
  transcript.querySelectorAll('[data-do="again"], [data-do="retry"]').forEach((b) => (b.disabled = !up || Boolean(running)));
}

function send(event) {
  event?.preventDefault();
  const text = prompt.value;
  if (running || !text.trim() || $("send").disabled || !valid()) return;
  if (editing) truncate(state.turns.findLastIndex((t) => t.role === "user"));
  setEditing(false);
  const turn = { role: "user", text };
  state.turns.push(turn);
  drawTurn(turn);
  prompt.value = "";
  save();
  answer();
}

// A parameter that cannot be sent is shown where it stands.
function valid() {
  if ($("parameters").checkValidity()) return true;
  $("params").open = true;
  return $("parameters").reportValidity();
}

function truncate(length) {
  state.turns.length = length;
  while (transcript.children.length > length) transcript.lastElementChild.remove();
}

function again() {
  if (running || $("send").disabled || !valid()) return;
  if (state.turns.at(-1)?.role === "assistant") truncate(state.turns.length - 1);
  answer();
}

function setEditing(is) {
  editing = is;
  $("editing").hidden = !is;
}

function edit() {
  if (running) return;
  prompt.value = state.turns.findLast((t) => t.role === "user")?.text ?? "";
  setEditing(true);
  prompt.focus();
}

const acts = {
  edit,
  again,
  retry: again,
  copy: (view) => copy(state.turns[[...transcript.children].indexOf(view)].text, view.querySelector(".copy-word"), view.querySelector(".text")),
};
transcript.addEventListener("click", (event) => {
  const button = event.target.closest("[data-do]");
  if (button) acts[button.dataset.do](button.closest(".turn"));
});

form.addEventListener("submit", send);
$("stop").addEventListener("click", stop);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) send(event);
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || document.querySelector("dialog[open]")) return;
  if (running) stop();
  else if (editing) cancelEdit();
  else if (matchMedia("(max-width: 1000px)").matches) $("params").open = false;
});
function cancelEdit() {
  setEditing(false);
  prompt.value = "";
  prompt.focus();
}
$("cancel-edit").addEventListener("click", cancelEdit);
$("clear").addEventListener("click", () => {
  stop();
  truncate(0);
  setEditing(false);
  sessionStorage.removeItem(root.dataset.key);
  mark();
  prompt.focus();
});
$("reset").addEventListener("click", takeAdvice);
$("thinking")?.addEventListener("change", takeAdvice);
$("parameters").addEventListener("submit", (event) => event.preventDefault());
$("parameters").addEventListener("change", save);
$("done").addEventListener("click", () => {
  $("params").open = false;
  $("open-params").focus();
});
$("open-params").addEventListener("click", () => {
  $("params").open = true;
  $("system").focus();
});
addEventListener("pagehide", () => {
  if (running) paint(running);
  save();
});
document.addEventListener("htmx:afterSettle", ready);

// -- view code -----------------------------------------------------------------------------------------

const MASK = "••••••••";
const writers = {
  curl: (url, body) => `curl -N '${url}' \\\n  -H 'Authorization: Bearer ${MASK}' \\\n  -H 'Content-Type: application/json' \\\n  -d '${JSON.stringify(body, null, 2).replaceAll("'", "'\\''")}'`,
  python: (url, body, base) =>
    `from openai import OpenAI\n\nclient = OpenAI(base_url=${JSON.stringify(base)}, api_key="${MASK}")\nstream = client.chat.completions.create(\n${pythonArguments(body)})\nfor chunk in stream:\n    if chunk.choices:\n        print(chunk.choices[0].delta.content or "", end="", flush=True)`,
  javascript: (url, body) =>
    `const response = await fetch(${JSON.stringify(url)}, {\n  method: "POST",\n  headers: { Authorization: "Bearer ${MASK}", "Content-Type": "application/json" },\n  body: JSON.stringify(${JSON.stringify(body, null, 2).replaceAll("\n", "\n  ")}),\n});\nfor await (const chunk of response.body.pipeThrough(new TextDecoderStream())) console.log(chunk);`,
};
const python = (value) => JSON.stringify(value).replace(/"(?:[^"\\]|\\.)*"|\btrue\b|\bfalse\b|\bnull\b/g, (m) => ({ true: "True", false: "False", null: "None" })[m] ?? m);
function pythonArguments(body) {
  const own = ["model", "messages", "stream", "temperature", "top_p", "max_tokens", "stream_options"];
  const extra = Object.fromEntries(Object.entries(body).filter(([key]) => !own.includes(key)));
  const lines = Object.entries(body).filter(([key]) => own.includes(key)).map(([key, value]) => `    ${key}=${python(value)},\n`);
  return lines.join("") + (Object.keys(extra).length ? `    extra_body=${python(extra)},\n` : "");
}

// The request as the panel sends it to the engine.
function engineBody() {
  const turns = state.turns.length ? state.turns.slice(0, state.turns.findLastIndex((t) => t.role === "user") + 1) : [{ role: "user", text: prompt.value.trim() || "Hello" }];
  const { messages, system, thinking, ...rest } = ask(turns);
  const body = { model: root.dataset.model, messages: system ? [{ role: "system", content: system }, ...messages] : messages, stream: true, stream_options: { include_usage: true }, ...rest };
  if (preset().top_k) body.top_k = preset().top_k;
  if (thinking !== undefined) body.chat_template_kwargs = { enable_thinking: thinking };
  return body;
}

let language = "curl";
function showCode() {
  const base = `${root.dataset.endpoint.replace(/\/$/, "") || "https://the-engine"}/v1`;
  $("code-text").textContent = writers[language](`${base}/chat/completions`, engineBody(), base);
  document.querySelectorAll("[data-language]").forEach((b) => b.setAttribute("aria-pressed", String(b.dataset.language === language)));
}
$("view-code").addEventListener("click", showCode);
document.querySelectorAll("[data-language]").forEach((button) =>
  button.addEventListener("click", () => {
    language = button.dataset.language;
    showCode();
  }),
);

// -- begin -------------------------------------------------------------------------------------------------

const interrupted = state.turns.at(-1);
if (interrupted?.role === "assistant" && !interrupted.stats && !interrupted.failure)
  interrupted.failure = "The page was left while this answer came: it is not complete.";
if (state.params) showParams(state.params);
root.classList.add("live");
$("open-params").hidden = false;
if (matchMedia("(max-width: 1000px)").matches) $("params").open = false;
advise();
// What was typed before this script came stays.
prompt.value ||= state.draft;
const views = state.turns.map(drawTurn);
mark();
ready();
if (views.length) toBottom();
if (matchMedia("(pointer: fine)").matches) prompt.focus({ preventScroll: true });
drawMarkdown(state.turns.map((turn, i) => [turn, views[i]]));
