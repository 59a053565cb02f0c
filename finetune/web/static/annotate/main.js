// Entry point: toolbar, progress and polling.

import * as actions from "./actions.js";
import { showAgreement } from "./agreement.js";
import { get, RequestError } from "./api.js";
import { doneCard } from "./done.js";
import { el, find } from "./dom.js";
import { showHelp } from "./help.js";
import { showHistory } from "./history.js";
import { formatDuration, formatNumber, t, tn } from "./i18n.js";
import { showInfo } from "./info.js";
import { KEYS, focusStage, listenToKeys } from "./keys.js";
import { noteUse } from "./labels.js";
import { showMap } from "./map.js";
import { outbox } from "./outbox.js";
import { photos } from "./photos.js";
import { FILTERS, queue, SORTS } from "./queue.js";
import { toast } from "./toast.js";
import "./commands.js";
import "./grid.js";
import "./manage.js";
import "./single.js";

const BUSY_POLL_MS = 900;
const IDLE_POLL_MS = 4000;
const FAST_POLL_MS = 250; // after an action, until the suggestions include it

function drawBar() {
  const { counts, labeled } = photos.counts();
  const all = [...photos.rows.values()].filter((row) => !row.rejected && !row.problem).length;
  find("progress").value = all ? labeled / all : 0;
  find("tally").textContent = tn("{labeled} of {count} photo labeled", "{labeled} of {count} photos labeled", all, { labeled: formatNumber(labeled) });
  const shown = find("filter");
  const numbers = filterCounts();
  const options = FILTERS.map(([name, text]) => {
    const number = numbers.get(name);
    // Nothing says "0 in doubt" before it has looked.
    const isUnknown = name === "errors" && photos.jobs.check.state !== "done" && !number;
    return el("option", { value: name, hidden: name === "review" && !number && queue.filter !== "review" }, isUnknown ? t("{filter} (still looking)", { filter: text }) : `${text} (${formatNumber(number)})`);
  });
  const group = el("optgroup", { label: t("by label") }, photos.labels.map((label) => el("option", { value: `label:${label}` }, `${label} (${formatNumber(counts.get(label))})`)));
  if (document.activeElement !== shown) {
    shown.replaceChildren(...options, group);
    shown.value = queue.filter;
  }
  find("sort").value = queue.sort;
  find("to-grid").setAttribute("aria-pressed", queue.view === "grid");
  find("to-single").setAttribute("aria-pressed", queue.view === "single");
  find("undo").disabled = !photos.undo;
  find("redo").disabled = !photos.redo;
  find("people").hidden = !photos.annotator && ![...photos.rows.values()].some((row) => row.votes);
}

const MANY = 20_000; // photos from which on filters are counted less often
const COUNT_MS = 3000;
let counted = { at: -Infinity, numbers: new Map() };

// Number of photos of each filter, from one pass over the rows.
function filterCounts() {
  if (photos.rows.size > MANY && performance.now() - counted.at < COUNT_MS) return counted.numbers;
  const numbers = new Map(FILTERS.map(([name]) => [name, 0]));
  for (const row of photos.rows.values()) {
    for (const [name, , matches] of FILTERS) if (matches(row)) numbers.set(name, numbers.get(name) + 1);
  }
  counted = { at: performance.now(), numbers };
  return numbers;
}

const amounts = ({ done, total, secondsLeft }) => ({
  done: formatNumber(done),
  total: formatNumber(total),
  left: secondsLeft ? ` · ${t("about {duration} left", { duration: formatDuration(secondsLeft) })}` : "",
});

function drawJobs() {
  const { scan, suggestions } = photos.jobs;
  const lines = [];
  if (scan.state === "running") {
    lines.push(scan.note ? t("Finding near-duplicates…") : t("Reading photos: {done} of {total}{left}", amounts(scan)));
  } else if (scan.state === "failed") {
    lines.push(scan.note);
  }
  if (suggestions.state === "running" && suggestions.total) {
    lines.push(t("Analyzing photos: {done} of {total}{left}", amounts(suggestions)));
  } else if (suggestions.state === "failed") {
    lines.push(suggestions.note);
  }
  if (photos.annotator) lines.push(t("Labeling as {name}", { name: photos.annotator }));
  const stale = queue.filter === "all" ? 0 : queue.stale;
  const box = find("jobs");
  box.replaceChildren(
    ...lines.map((line) => el("span", {}, line)),
    ...(queue.isPart
      ? [el("button", { type: "button", on: { click: () => queue.show({ filter: queue.filter }) } }, t("Show all photos (Esc)"))]
      : []),
    ...(stale && queue.view === "grid"
      ? [el("button", { type: "button", on: { click: () => queue.rebuild() } }, t("Hide {count} finished (R)", { count: formatNumber(stale) }))]
      : []),
  );
}

function drawView() {
  find("grid").hidden = queue.view !== "grid";
  find("single").hidden = queue.view !== "single";
  document.body.dataset.view = queue.view;
  const empty = find("empty");
  const total = [...photos.rows.values()].filter((row) => !row.rejected && !row.problem).length;
  const isDone = queue.filter === "unlabeled" && !queue.search && total > 0 && photos.counts().labeled >= total && !queue.list.some((id) => queue.matches(photos.get(id)));
  empty.hidden = queue.list.length > 0 && !(isDone && queue.view === "single" && queue.isThrough);
  if (!empty.hidden) {
    empty.replaceChildren(isDone ? doneCard(total, document.body.dataset) : el("p", {}, total ? t("No photos match.") : t("There are no photos.")));
    if (isDone) find("single").hidden = true;
  }
  saveView();
}

function saveView() {
  const state = new URLSearchParams({ view: queue.view, show: queue.filter, sort: queue.sort, at: queue.cursor ?? "" });
  history.replaceState(null, "", `#${state}`);
}

function restoreView() {
  const state = new URLSearchParams(location.hash.slice(1));
  const open = [...photos.rows.values()].filter((row) => !row.source && !row.rejected && !row.problem).length;
  const filter = state.get("show");
  const known = FILTERS.some(([name]) => name === filter) || photos.labels.some((label) => filter === `label:${label}`);
  const sort = SORTS.some(([name]) => name === state.get("sort") && name !== "similar") ? state.get("sort") : null;
  queue.view = ["grid", "single"].includes(state.get("view")) ? state.get("view") : open ? "single" : "grid";
  queue.filter = known ? filter : open ? "unlabeled" : "all";
  queue.sort = sort ?? (open ? "useful" : "path");
  // A report links to a photo by its path.
  const named = [...photos.rows.values()].find((row) => row.path === state.get("path"));
  if (named) Object.assign(queue, { view: "single", filter: "all" });
  queue.rebuild({ keep: false });
  const at = named?.id ?? state.get("at");
  if (queue.placeOf(at) >= 0) queue.move(at);
  queue.show({});
}

let next = 0;
let isRestored = false;

function pollIn(milliseconds) {
  clearTimeout(next);
  next = setTimeout(poll, milliseconds);
}

// Gets all that has changed, in parts.
async function update() {
  const since = photos.clock;
  let after = "";
  let clock = null;
  let sorted = photos.rows.size;
  while (after !== null) {
    const response = await get(`/api/photos?since=${since}&after=${encodeURIComponent(after)}`);
    after = response.next;
    clock ??= response.clock;
    photos.update({ ...response, clock: after === null ? clock : since });
    // Sorting takes as long as many parts.
    const isDue = after === null ? photos.rows.size !== sorted : photos.rows.size > 1.5 * sorted;
    if (isDue) {
      queue.renew();
      sorted = photos.rows.size;
    }
  }
}

async function poll() {
  try {
    await update();
    if (!isRestored) {
      isRestored = true;
      outbox.restore(t("The page was reloaded."));
    }
    if (queue.list.some((id) => !photos.get(id))) queue.rebuild();
    if (document.body.classList.contains("lost")) {
      document.body.classList.remove("lost");
      toast(t("Reconnected."));
      // Their photos were on screen, and nothing was refused.
      if (outbox.refusal?.isLost) outbox.goOn();
    }
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    document.body.classList.add("lost");
    toast(error.message, { bad: true, stay: true });
  }
  const busy = Object.values(photos.jobs).some((job) => job.state === "running");
  const behind = photos.suggestedCount < photos.actionCount && photos.jobs.suggestions.state !== "failed";
  const hasSuggestions = photos.jobs.suggestions.state !== "waiting";
  pollIn(behind && hasSuggestions ? FAST_POLL_MS : busy ? BUSY_POLL_MS : IDLE_POLL_MS);
}

function bindControls() {
  find("sort").replaceChildren(...SORTS.map(([name, text]) => el("option", { value: name }, text)));
  find("filter").addEventListener("change", (event) => {
    queue.show({ filter: event.target.value });
    focusStage();
  });
  find("sort").addEventListener("change", (event) => {
    if (event.target.value === "similar") actions.sortBySimilarity();
    else queue.show({ sort: event.target.value });
    focusStage();
  });
  find("to-grid").addEventListener("click", () => queue.show({ view: "grid" }));
  find("to-single").addEventListener("click", () => queue.show({ view: "single" }));
  find("undo").addEventListener("click", actions.undo);
  find("redo").addEventListener("click", actions.redo);
  find("help").addEventListener("click", () => showHelp(KEYS));
  find("people").addEventListener("click", showAgreement);
  find("history").addEventListener("click", showHistory);
  find("info").addEventListener("click", showInfo);
  find("map").addEventListener("click", showMap);
  const search = find("search");
  let typing = 0;
  search.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(() => queue.show({ search: search.value }), 150);
  });
  search.addEventListener("keydown", (event) => {
    if (event.isComposing || event.keyCode === 229) return;
    if (event.key === "Escape") search.value = "";
    if (event.key !== "Escape" && event.key !== "Enter") return;
    event.preventDefault();
    queue.show({ search: search.value });
    focusStage();
  });
  addEventListener("labels-used", ({ detail }) => noteUse(detail));
}

let waiting = 0;
function onNextFrame(draw) {
  // At most once a frame.
  if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; draw(); });
}

async function start() {
  bindControls();
  listenToKeys();
  const wished = new URLSearchParams(location.hash.slice(1));
  const named = new URLSearchParams({ first: "", at: wished.get("at") ?? "", path: wished.get("path") ?? "" });
  photos.update(await get(`/api/photos?${named}`));
  // Other lists than that of unlabeled photos need all of them.
  if (!["unlabeled", null].includes(wished.get("show")) && !wished.get("path")) await update();
  restoreView();
  drawBar();
  drawView();
  drawJobs();
  queue.addEventListener("change", () => {
    drawView();
    onNextFrame(() => { drawBar(); drawJobs(); });
  });
  photos.addEventListener("change", () => onNextFrame(() => { drawBar(); drawJobs(); }));
  focusStage();
  document.body.dataset.ready = "yes";
  addEventListener("acted", () => pollIn(FAST_POLL_MS));
  poll();
}

start().catch((error) => toast(error.message, { bad: true, stay: true }));
