// What every page needs: theme, menus, dialogs, copy, ages, and live parts that never disturb.

// Theme: system, then light, then dark, kept in this browser alone.
const THEMES = { system: "light", light: "dark", dark: "system" };
const theme = () => document.documentElement.dataset.theme || "system";
const nameTheme = () =>
  document.querySelectorAll("[data-theme-toggle]").forEach((b) => {
    b.querySelectorAll("[data-for]").forEach((i) => (i.hidden = i.dataset.for !== theme()));
    b.querySelector("[data-word]").textContent = `Theme: ${theme()}`;
  });

function nextTheme() {
  const next = THEMES[theme()];
  if (next === "system") {
    delete document.documentElement.dataset.theme;
    localStorage.removeItem("theme");
  } else {
    document.documentElement.dataset.theme = next;
    localStorage.setItem("theme", next);
  }
  nameTheme();
}

// Copying needs a secure context; without one the button selects the text instead.
async function copy(button) {
  const source = document.getElementById(button.dataset.copy);
  const said = button.querySelector("[data-said]");
  try {
    await navigator.clipboard.writeText(source.textContent.trim());
    said.textContent = "Copied";
    button.dataset.done = "";
  } catch {
    getSelection().selectAllChildren(source);
    said.textContent = "Selected: press Ctrl+C to copy";
  }
  setTimeout(() => {
    said.textContent = "";
    delete button.dataset.done;
  }, 2000);
}

document.addEventListener("click", (event) => {
  const at = (selector) => event.target.closest(selector);
  document.querySelectorAll("details.menu[open]").forEach((menu) => {
    if (!menu.contains(event.target)) menu.open = false;
  });
  if (at("[data-theme-toggle]")) nextTheme();
  if (at("[data-copy]")) copy(at("[data-copy]"));
  const opener = at("[data-dialog]");
  const dialog = opener && document.getElementById(opener.dataset.dialog);
  if (dialog) {
    event.preventDefault();
    dialog.showModal();
  }
  if (at("[data-close]")) at("dialog")?.close();
  if (at("[data-dismiss]")) at(".alert").remove();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape")
    document.querySelectorAll("details.menu[open]").forEach((menu) => {
      menu.open = false;
      menu.querySelector("summary").focus();
    });
  const typing = event.target.closest("input, textarea, select, [contenteditable]");
  if (event.key !== "/" || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const field = document.querySelector("main [data-search], main :is(input:not([type=hidden]), textarea, select)");
  if (field) {
    event.preventDefault();
    field.focus();
  }
});

// A second click on a sent form does nothing; the browser's way back makes it usable again.
document.addEventListener("submit", (event) => {
  if (event.target.method !== "post" || event.defaultPrevented) return;
  if (event.target.dataset.sent) event.preventDefault();
  event.target.dataset.sent = "1";
});
addEventListener("pageshow", () => document.querySelectorAll("form[data-sent]").forEach((f) => delete f.dataset.sent));

// Ages tick here, so that a poll whose only news is the clock can answer 304.
function age(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 172800) return `${Math.floor(s / 3600)} h`;
  return `${Math.floor(s / 86400)} d`;
}
const skew = Date.now() - Date.parse(document.documentElement.dataset.now || new Date().toISOString());
function tick() {
  if (document.hidden) return;
  document.querySelectorAll("time[data-age]").forEach((time) => {
    const text = age((Date.now() - skew - Date.parse(time.dateTime)) / 1000);
    const said = time.dataset.age === "ago" ? `${text} ago` : text;
    if (time.textContent !== said) time.textContent = said;
  });
}
setInterval(tick, 1000);

// Live parts: quiet while hidden, 304 when nothing is new, focus kept.
const tags = new Map();
document.addEventListener("htmx:configRequest", ({ detail }) => {
  const key = detail.elt.dataset.live;
  if (key && tags.has(key)) detail.headers["If-None-Match"] = tags.get(key);
});
document.addEventListener("htmx:beforeRequest", (event) => {
  if (event.detail.elt.dataset.live && document.hidden) event.preventDefault();
});
document.addEventListener("htmx:beforeSwap", (event) => {
  const { xhr, requestConfig } = event.detail;
  const key = requestConfig.elt.dataset.live;
  if (!key) return;
  // Signed out meanwhile: the sign-in page is no part of this one.
  if (xhr.responseURL && new URL(xhr.responseURL).pathname !== new URL(requestConfig.path, location).pathname) {
    event.detail.shouldSwap = false;
    location.reload();
    return;
  }
  const tag = xhr.getResponseHeader("ETag");
  if (xhr.status === 200 && tag) tags.set(key, tag);
});
document.addEventListener("htmx:afterRequest", ({ detail }) => {
  if (!detail.elt.dataset.live) return;
  const answered = detail.xhr.status > 0 && detail.xhr.status < 400;
  document.getElementById("not-live").hidden = answered;
  document.querySelectorAll("[data-live]").forEach((live) => live.classList.toggle("stale", !answered));
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) document.querySelectorAll("[data-live]").forEach((e) => window.htmx?.trigger(e, "wake"));
});

// A table that is wider than its place can be scrolled by keyboard.
function reachable() {
  document.querySelectorAll(".table-wrap").forEach((wrap) => {
    if (wrap.scrollWidth <= wrap.clientWidth) return wrap.removeAttribute("tabindex");
    wrap.tabIndex = 0;
    wrap.setAttribute("role", "group");
    wrap.setAttribute("aria-label", wrap.querySelector("caption")?.textContent || "Table");
  });
}
// What was unfolded stays so when its part is swapped, and a table that was scrolled stays where it was.
let unfolded = [];
let scrolled = [];
document.addEventListener("htmx:beforeSwap", ({ detail }) => {
  unfolded = [...detail.target.querySelectorAll("details[open][id]")].map((d) => d.id);
  scrolled = [...detail.target.querySelectorAll(".table-wrap[id]")].map((w) => [w.id, w.scrollLeft, w.scrollTop]);
});
document.addEventListener("htmx:afterSettle", () => {
  unfolded.forEach((id) => document.getElementById(id)?.setAttribute("open", ""));
  scrolled.forEach(([id, left, top]) => document.getElementById(id)?.scrollTo({ left, top, behavior: "instant" }));
  reachable();
  tick();
});
addEventListener("resize", reachable);

nameTheme();
tick();
reachable();
