// Reads a chat's event stream: events whole however the bytes were split, and the thought apart from the answer.

// Server-sent events out of text that comes in arbitrary pieces.
export class EventParser {
  #rest = "";

  push(text) {
    const lines = (this.#rest + text).split(/\r\n|\n|\r(?!$)/);
    this.#rest = lines.pop();
    const events = [];
    for (const line of lines) {
      if (line === "") this.#flush(events);
      else if (line.startsWith("data:")) this.#data.push(line.slice(line[5] === " " ? 6 : 5));
      else if (line.startsWith("event:")) this.#name = line.slice(6).trim();
    }
    return events;
  }

  #data = [];
  #name = "";

  #flush(events) {
    if (this.#data.length) events.push({ name: this.#name || "message", data: this.#data.join("\n") });
    this.#data = [];
    this.#name = "";
  }
}

const OPEN = "<think>";
const CLOSE = "</think>";

// Splits an answer's content at a bare <think>…</think> at its beginning, however it was cut into pieces.
export class ThoughtSplitter {
  #state = "start";
  #held = "";

  // -> [thought, answer]: what can be said for sure by now.
  push(text) {
    if (this.#state === "answer") return ["", text];
    this.#held += text;
    let thought = "";
    if (this.#state === "start") {
      const seen = this.#held.trimStart();
      if (seen.startsWith(OPEN)) {
        this.#state = "thought";
        this.#held = seen.slice(OPEN.length);
      } else if (OPEN.startsWith(seen)) return ["", ""];
      else return ["", this.#answer(this.#held)];
    }
    const end = this.#held.indexOf(CLOSE);
    if (end >= 0) {
      thought = this.#held.slice(0, end);
      return [thought, this.#answer(this.#held.slice(end + CLOSE.length).trimStart())];
    }
    const keep = overlap(this.#held, CLOSE);
    thought = this.#held.slice(0, this.#held.length - keep);
    this.#held = this.#held.slice(this.#held.length - keep);
    return [thought, ""];
  }

  // What is still held back when the stream ends.
  end() {
    const held = this.#held;
    this.#held = "";
    return this.#state === "thought" ? [held, ""] : ["", held];
  }

  #answer(text) {
    this.#state = "answer";
    this.#held = "";
    return text;
  }
}

// How many characters at the end of `text` may be the beginning of `mark`.
function overlap(text, mark) {
  for (let n = Math.min(text.length, mark.length - 1); n > 0; n--) if (mark.startsWith(text.slice(-n))) return n;
  return 0;
}

// One chunk of the stream -> {thought, answer} by any of the three spellings.
export function deltaOf(event, splitter) {
  const delta = event?.choices?.[0]?.delta ?? {};
  const [inner, answer] = typeof delta.content === "string" && delta.content ? splitter.push(delta.content) : ["", ""];
  const apart = delta.reasoning ?? delta.reasoning_content;
  return { thought: (typeof apart === "string" ? apart : "") + inner, answer };
}

const spaced = (n) => String(n).replace(/\B(?=(\d{3})+(?!\d))/g, "\u202f");
const count = (n) => (Number.isInteger(n) ? spaced(n) : "n/a");

export function money(usd) {
  const value = Number(usd);
  if (usd === null || usd === undefined || usd === "" || !Number.isFinite(value)) return "n/a";
  if (value === 0) return "$0";
  if (value >= 0.0001) return `$${value.toFixed(4)}`;
  return `$${value.toFixed(Math.min(12, 1 - Math.floor(Math.log10(value))))}`;
}

// The line under an answer. What is not known is "n/a", never 0.
export function statsLine(s, { thought }) {
  const seconds = (v) => (typeof v === "number" ? `${v < 10 ? v.toFixed(2) : v.toFixed(1)} s` : "n/a");
  const rate = typeof s.tokens_per_second === "number" ? `${Math.round(s.tokens_per_second)} tok/s` : "n/a tok/s";
  const thinking = Number.isInteger(s.thinking_tokens) ? (s.thinking_tokens || thought ? ` (${spaced(s.thinking_tokens)} thinking)` : "") : thought ? " (n/a thinking)" : "";
  return [
    `TTFT ${seconds(s.ttft)}`,
    rate,
    `${count(s.prompt_tokens)} in / ${count(s.completion_tokens)} out${thinking}`,
    money(s.usd),
    s.finish_reason ?? "n/a",
  ].join(" · ");
}
