// Charts that zoom. The server has drawn each as a picture with a table; here they become live, over one time range.

const board = document.getElementById("board");
const $ = (id) => document.getElementById(id);
const SPARSE = new Set(["canary_ttft", "canary_rate"]);
const SPARSE_GAP = 1200; // seconds: canaries further apart are not joined
const HEIGHT = 156; // as tall as the server's picture
const Y_AXIS = 52;

// {since, until, at, series, marks, bands, step, query, preset}: what is shown now.
let shown = { since: 0, until: 1, at: [], series: {}, marks: [], bands: [], step: 15, query: location.search, preset: "" };
let presetBefore = "1h";
let newest = 0; // of overlapping requests the last one counts
const charts = [];

// -- how values and times are written, as the server writes them ------------------------------------------

const digits = (n) => {
  if (n >= 99.95) return Math.round(n).toString().replace(/\B(?=(\d{3})+(?!\d))/g, ",");
  const text = n >= 9.995 ? n.toFixed(1) : n.toFixed(2);
  return text.includes(".") ? text.replace(/0+$/, "").replace(/\.$/, "") : text;
};
const SHORT = { "tokens/s": " tok/s", requests: "", "requests/min": "/min" };
function write(n, unit) {
  if (n == null) return "n/a";
  if (unit === "share") return `${digits(n * 100)} %`;
  if (unit === "s") return n < 1 ? `${digits(n * 1000)} ms` : `${digits(n)} s`;
  return digits(n) + SHORT[unit];
}
const two = (n) => String(n).padStart(2, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
function time(seconds, { day = false, second = false } = {}) {
  const d = new Date(seconds * 1000);
  const clock = `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}${second ? `:${two(d.getUTCSeconds())}` : ""}`;
  return day ? `${d.getUTCDate()} ${MONTHS[d.getUTCMonth()]}, ${clock}` : clock;
}
const moment = (seconds) => time(seconds, { day: shown.until - shown.since > 86400, second: shown.step < 60 });
function tick(seconds, step) {
  const d = new Date(seconds * 1000);
  if (step >= 86400 || seconds % 86400 === 0) return `${d.getUTCDate()} ${MONTHS[d.getUTCMonth()]}`;
  return time(seconds, { second: step < 60 });
}

// A round number that is not below the highest value.
function topOf(values) {
  const highest = values.reduce((top, column) => column.reduce((t, v) => (v > t ? v : t), top), 0);
  if (highest <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(highest));
  return [1, 1.25, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((s) => s * unit).find((s) => s >= highest * 0.999);
}

// -- colours: the style sheet's, read where it put them ----------------------------------------------------

const probe = document.createElement("span");
function colour(token) {
  probe.style.color = `var(--${token})`;
  board.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}
const look = {};
function readLook() {
  for (const token of ["muted", "line", "text", "ok", "warn", "critical", "surface"]) look[token] = colour(token);
  for (const chart of charts)
    chart.keys.forEach((key, i) => {
      const style = getComputedStyle(chart.section.querySelector(`[data-key="${key}"] line`));
      chart.strokes[i] = style.stroke;
      chart.dashes[i] = style.strokeDasharray === "none" ? [] : style.strokeDasharray.split(",").map((n) => parseFloat(n));
    });
}

// -- one chart --------------------------------------------------------------------------------------------

class Chart {
  constructor(section) {
    this.section = section;
    this.key = section.dataset.chart;
    this.unit = section.dataset.unit;
    this.title = section.querySelector("h2").textContent;
    this.keys = [...section.querySelectorAll("[data-key]")].map((li) => li.dataset.key);
    this.words = this.keys.map((key) => section.querySelector(`[data-key="${key}"]`).childNodes[1].textContent.trim());
    [this.strokes, this.dashes, this.top, this.index, this.anchor] = [[], [], 1, null, null];
  }

  columns() {
    return this.keys.map((key) => shown.series[key] ?? []);
  }

  // Where the value that a reader at `index` means stands: of what is told seldom, the nearest.
  nearest(i, index) {
    const column = this.columns()[i];
    if (column[index] != null || !SPARSE.has(this.keys[i])) return index;
    for (let n = 1; n * shown.step <= SPARSE_GAP / 4; n++)
      for (const at of [index - n, index + n]) if (column[at] != null) return at;
    return index;
  }

  mount() {
    this.host = this.section.querySelector("[data-plot]");
    this.host.querySelector("svg.lines").remove();
    this.stage = document.createElement("div");
    this.stage.className = "stage";
    this.stage.tabIndex = 0;
    this.stage.setAttribute("role", "group");
    this.stage.setAttribute("aria-roledescription", "chart");
    this.stage.setAttribute("aria-label", this.title);
    this.stage.setAttribute("aria-describedby", "board-help");
    this.host.prepend(this.stage);
    this.plot = new uPlot(this.options(), this.data(), this.stage);
    this.stage.addEventListener("keydown", (event) => this.pressed(event));
    this.stage.addEventListener("blur", () => this.leave());
    this.touch(this.plot.over);
    new ResizeObserver(() => this.resize()).observe(this.host);
  }

  resize() {
    const width = this.host.clientWidth;
    if (width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: HEIGHT });
  }

  options() {
    const font = "11px Inter, system-ui, sans-serif";
    const grid = { stroke: () => look.line, width: 1 };
    const axis = { stroke: () => look.muted, font, grid, ticks: { show: false }, gap: 6 };
    return {
      width: Math.max(this.host.clientWidth, 100),
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
      select: { show: true },
      cursor: {
        y: false,
        drag: { x: true, y: false, setScale: false, dist: 4 },
        // Only the cursor goes along in the other charts; who drags selects in this one.
        sync: { key: "board", filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
        dataIdx: (u, i, index) => (i ? this.nearest(i - 1, index) : index),
        bind: { dblclick: () => () => back() },
        points: { size: 7, fill: (u, i) => this.strokes[i - 1], stroke: () => look.surface, width: 1.5 },
      },
      scales: { x: { time: true, range: () => [shown.since, shown.until] }, y: { range: () => [0, this.top] } },
      axes: [
        { ...axis, size: 24, space: 64, values: (u, splits, _axis, _space, step) => splits.map((s) => tick(s, step)) },
        { ...axis, size: Y_AXIS, space: 36, values: (u, splits) => splits.map((s) => (this.unit in SHORT ? digits(s) : write(s, this.unit))) },
      ],
      series: [{}, ...this.keys.map((key, i) => this.line(key, i))],
      hooks: {
        draw: [(u) => this.drawMarks(u)],
        setSelect: [(u) => this.selected(u)],
        setCursor: [(u) => this.read(u)],
      },
    };
  }

  line(key, i) {
    const far = (u, [from, to]) => u.posToVal(to, "x", true) - u.posToVal(from, "x", true) > SPARSE_GAP;
    return {
      label: this.words[i],
      stroke: () => this.strokes[i],
      dash: this.dashes[i],
      width: 1.5,
      gaps: (u, _series, _from, _to, gaps) => (SPARSE.has(key) ? gaps.filter((gap) => far(u, gap)) : gaps),
      points: { show: false, size: 5, width: 0, fill: () => this.strokes[i], filter: (u, series) => this.alone(u.data[series], key) },
    };
  }

  // The values that no line reaches: those without a neighbour. What is told seldom is dotted throughout.
  alone(column, key) {
    const found = [];
    column.forEach((v, i) => {
      if (v != null && (SPARSE.has(key) || (column[i - 1] == null && column[i + 1] == null))) found.push(i);
    });
    return found;
  }

  data() {
    const columns = this.columns();
    this.top = this.unit === "share" ? 1 : topOf(columns);
    return [shown.at, ...columns];
  }

  update() {
    this.leave();
    this.plot.setData(this.data());
    this.section.querySelector(".none").hidden = this.columns().some((column) => column.some((v) => v != null));
    this.stage.setAttribute("aria-label", `${this.title}, ${moment(shown.since)} to ${moment(shown.until)} UTC`);
  }

  drawMarks(u) {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.globalAlpha = 0.1;
    for (const band of shown.bands) {
      const [from, to] = [Math.max(u.valToPos(band.since, "x", true), bbox.left), Math.min(u.valToPos(band.until, "x", true), bbox.left + bbox.width)];
      ctx.fillStyle = look[band.tone];
      if (to > from) ctx.fillRect(from, bbox.top, to - from, bbox.height);
    }
    ctx.globalAlpha = 1;
    for (const mark of shown.marks) {
      const x = Math.round(u.valToPos(mark.at, "x", true));
      if (x < bbox.left || x > bbox.left + bbox.width) continue;
      ctx.strokeStyle = ctx.fillStyle = look[mark.tone] ?? look.muted;
      ctx.lineWidth = devicePixelRatio;
      ctx.setLineDash([3 * devicePixelRatio, 3 * devicePixelRatio]);
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      const half = 4 * devicePixelRatio;
      ctx.beginPath();
      ctx.moveTo(x - half, bbox.top - half);
      ctx.lineTo(x + half, bbox.top - half);
      ctx.lineTo(x, bbox.top + half);
      ctx.fill();
    }
    ctx.restore();
  }

  // The values at the cursor stand in the legend; without one, the present ones do.
  read(u) {
    const index = u.cursor.idx;
    const legend = $(`legend-${this.key}`);
    legend.querySelector("[data-at]").hidden = index == null;
    this.keys.forEach((key, i) => {
      const value = legend.querySelector(`[data-key="${key}"] [data-value]`);
      value.dataset.latest ??= value.textContent;
      value.textContent = index == null ? value.dataset.latest : write(this.columns()[i][this.nearest(i, index)], this.unit);
    });
    if (index != null) legend.querySelector("[data-at]").textContent = this.at(index);
  }

  at(index) {
    const at = shown.at[index];
    const close = ((shown.until - shown.since) / this.plot.over.clientWidth) * 6;
    const near = shown.marks.filter((m) => Math.abs(m.at - at) < close || (m.until && m.at <= at && at <= m.until));
    return [moment(at), ...near.map((m) => m.word)].join(" · ");
  }

  selected(u) {
    const { left, width } = u.select;
    if (width < 4) return;
    const [from, to] = [u.posToVal(left, "x"), u.posToVal(left + width, "x")];
    this.unselect();
    zoom(from, to);
  }

  unselect() {
    this.anchor = null;
    this.plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  leave() {
    this.index = null;
    this.unselect();
    this.plot.setCursor({ left: -10, top: -10 }, true, true);
  }

  // -- by keyboard and by touch

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const act = {
      ArrowLeft: () => this.move(-1, event.shiftKey),
      ArrowRight: () => this.move(1, event.shiftKey),
      Home: () => this.move(-Infinity, event.shiftKey),
      End: () => this.move(Infinity, event.shiftKey),
      Enter: () => this.selected(this.plot),
      Escape: () => (this.anchor === null ? back() : this.unselect()),
      "+": () => this.scale(0.5),
      "=": () => this.scale(0.5),
      "-": () => this.scale(2),
    }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  }

  move(by, selecting) {
    if (!shown.at.length) return say("There are no samples in this time.");
    const known = shown.at.map((_, i) => i).filter((i) => this.columns().some((column) => column[i] != null));
    if (!known.length) return say("This chart has no samples in this time.");
    // One press moves by something that can be seen, however dense the samples are.
    const seen = Math.max(1, Math.round((6 * (shown.until - shown.since)) / this.plot.over.clientWidth / shown.step));
    const from = this.index ?? known.at(-1);
    const place = known.reduce((best, i, n) => (Math.abs(i - from) < Math.abs(known[best] - from) ? n : best), 0);
    const next = this.index === null ? known.length - 1 : Math.min(known.length - 1, Math.max(0, place + by * (Number.isFinite(by) ? seen : 1)));
    if (selecting) this.anchor ??= from;
    else this.unselect();
    this.index = known[next];
    const x = (index) => this.plot.valToPos(shown.at[index], "x");
    this.plot.setCursor({ left: x(this.index), top: 1 }, true, true);
    if (selecting) {
      const [a, b] = [x(this.anchor), x(this.index)].sort((p, q) => p - q);
      this.plot.setSelect({ left: a, width: b - a, top: 0, height: this.plot.over.clientHeight }, false);
    }
    const values = this.keys.map((_, i) => `${this.words[i]} ${write(this.columns()[i][this.nearest(i, this.index)], this.unit)}`);
    say(selecting ? `Selected: ${moment(shown.at[Math.min(this.anchor, this.index)])} to ${moment(shown.at[Math.max(this.anchor, this.index)])}.` : `${this.at(this.index)}: ${values.join(", ")}`);
  }

  scale(by) {
    const span = (shown.until - shown.since) * by;
    const middle = this.index === null ? (shown.since + shown.until) / 2 : shown.at[this.index];
    zoom(middle - span / 2, middle + span / 2);
  }

  // A finger that goes sideways selects; up and down scrolls the page as ever.
  touch(over) {
    let start = null;
    const x = (event) => Math.min(Math.max(event.clientX - over.getBoundingClientRect().left, 0), over.clientWidth);
    over.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "touch") return;
      start = x(event);
      this.plot.setCursor({ left: start, top: 1 }, true, true);
    });
    over.addEventListener("pointermove", (event) => {
      if (start === null) return;
      const now = x(event);
      this.plot.setCursor({ left: now, top: 1 }, true, true);
      this.plot.setSelect({ left: Math.min(start, now), width: Math.abs(now - start), top: 0, height: over.clientHeight }, false);
    });
    over.addEventListener("pointerup", () => {
      if (start === null) return;
      start = null;
      if (this.plot.select.width > 16) this.selected(this.plot);
      else this.unselect();
    });
    over.addEventListener("pointercancel", () => {
      start = null;
      this.unselect();
    });
  }

  get busy() {
    return this.index !== null || this.plot.select.width > 0 || this.stage.matches(":hover");
  }
}

// -- the one range ----------------------------------------------------------------------------------------

const say = (text) => ($("board-said").textContent = text);
const iso = (seconds) => new Date(Math.round(seconds) * 1000).toISOString().replace(".000", "");

function zoom(from, to) {
  // At once, with what is here; finer numbers follow.
  [shown.since, shown.until] = [from, Math.max(to, from + 1)];
  charts.forEach((chart) => chart.plot.setScale("x", { min: from, max: to }));
  go(`?from=${iso(from)}&to=${iso(to)}`);
}

const back = () => shown.preset || go(`?range=${presetBefore}`);

async function go(query, { push = true, quiet = false } = {}) {
  const mine = ++newest;
  clearTimeout(timer);
  let numbers;
  try {
    const response = await fetch(board.dataset.series + query, { credentials: "same-origin" });
    // Signed out meanwhile: the sign-in page has no numbers.
    if (response.redirected) return location.reload();
    if (!response.ok) throw new Error(String(response.status));
    numbers = await response.json();
  } catch {
    if (mine === newest) lost();
    return;
  }
  if (mine !== newest) return;
  if (push && numbers.query !== shown.query) history.pushState({ board: true }, "", board.dataset.page + numbers.query);
  show(numbers, quiet);
}

function show(numbers, quiet) {
  shown = numbers;
  if (shown.preset) presetBefore = shown.preset;
  const focused = document.activeElement?.id;
  const open = [...board.querySelectorAll("details[open][id]")].map((d) => d.id);
  for (const [id, html] of Object.entries(shown.html)) if ($(id)) $(id).innerHTML = html;
  open.forEach((id) => $(id)?.setAttribute("open", ""));
  if (focused && document.activeElement?.id !== focused) ($(focused) ?? $("range-in"))?.focus({ preventScroll: true });
  $("board-problem").hidden = true;
  board.classList.remove("stale");
  if (!charts.length) start();
  charts.forEach((chart) => chart.update());
  board.dataset.query = shown.query;
  if (!quiet) say(`Shown is ${$("board-bar").querySelector("strong").textContent}.`);
  dispatchEvent(new Event("resize")); // wide tables learn that they can be scrolled
  wait();
}

function lost() {
  board.classList.add("stale");
  $("board-problem").querySelector("[data-words]").textContent = "The panel does not answer: these charts are not up to date.";
  $("board-problem").hidden = false;
  wait();
}

// A range that ends now moves on, unless somebody reads or selects just then.
let timer;
function wait() {
  clearTimeout(timer);
  if (!shown.preset && charts.length) return;
  timer = setTimeout(() => (document.hidden || charts.some((chart) => chart.busy) ? wait() : go(shown.query, { push: false, quiet: true })), Math.max(15, shown.step) * 1000);
}

function start() {
  charts.push(...[...board.querySelectorAll("[data-chart]")].map((section) => new Chart(section)));
  readLook();
  charts.forEach((chart) => chart.mount());
  $("board-help").hidden = false;
}

function repaint() {
  readLook();
  charts.forEach((chart) => chart.plot.redraw(false));
}

if (board && window.uPlot) {
  board.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-range]");
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    go(new URL(link.href).search);
  });
  addEventListener("popstate", () => go(location.search, { push: false }));
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && shown.preset) go(shown.query, { push: false, quiet: true });
  });
  new MutationObserver(repaint).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", repaint);
  document.fonts.ready.then(() => charts.forEach((chart) => chart.plot.redraw(false)));
  go(location.search, { push: false, quiet: true });
}
