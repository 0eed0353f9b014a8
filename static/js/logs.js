// The log follows its end unless somebody has scrolled up, stays bounded, and tells times in the browser's zone.
const MOST = 5000;
const log = () => document.getElementById("log-lines");

// Whether the end is in sight; asked before lines are added.
const atEnd = (box) => box.scrollHeight - box.scrollTop - box.clientHeight < 24;

function localTimes(box) {
  if (!("local" in box.dataset)) return;
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const clock = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit", timeZone: zone });
  const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: zone });
  const today = day.format(new Date());
  box.querySelectorAll("time:not([data-told])").forEach((time) => {
    const at = new Date(time.dateTime);
    const shown = day.format(at) === today ? "" : `${day.format(at)} `;
    time.textContent = shown + clock.format(at);
    time.dataset.told = "";
  });
  document.getElementById("log-zone").textContent = `times in ${zone} (this browser’s)`;
  box.setAttribute("aria-label", `Log, newest lines last, times in ${zone}`);
}

function trim(box) {
  const lines = box.querySelectorAll("p");
  for (let i = 0; i < lines.length - MOST; i += 1) lines[i].remove();
}

let follows = true;
document.addEventListener("htmx:beforeSwap", () => {
  const box = log();
  follows = !box || atEnd(box);
});
// With the swap itself: by the time it settles, somebody may have scrolled.
document.addEventListener("htmx:afterSwap", () => {
  const box = log();
  if (!box) return;
  trim(box);
  localTimes(box);
  if (follows) box.scrollTop = box.scrollHeight;
});

const box = log();
if (box) {
  localTimes(box);
  box.scrollTop = box.scrollHeight;
}
// What is chosen is shown at once; the button stays for whoever has no script.
document.querySelectorAll(".log-filter select").forEach((select) => {
  select.addEventListener("change", () => select.form.requestSubmit());
});
