// Entry point: toolbar, progress and polling.

import * as actions from "./actions.js";
import { showAgreement } from "./agreement.js";
import { get, RequestError } from "./api.js";
import { count, el, formatNumber, find } from "./dom.js";
import { showHelp } from "./help.js";
import { KEYS, focusStage, listenToKeys } from "./keys.js";
import { photos } from "./photos.js";
import { FILTERS, queue, SORTS } from "./queue.js";
import { toast } from "./toast.js";
import "./commands.js";
import "./grid.js";
import "./labels.js";
import "./single.js";

const BUSY_POLL_MS = 900;
const IDLE_POLL_MS = 4000;
const FAST_POLL_MS = 250; // after an action, until the suggestions include it

function drawBar() {
  const { counts, labeled } = photos.counts();
  const all = [...photos.rows.values()].filter((row) => !row.rejected && !row.problem).length;
  find("progress").value = all ? labeled / all : 0;
  find("tally").textContent = `${formatNumber(labeled)} of ${count(all, "photo")} labeled`;
  const shown = find("filter");
  const options = FILTERS.map(([name, text, matches]) => {
    const number = [...photos.rows.values()].filter(matches).length;
    return el("option", { value: name }, `${text} (${formatNumber(number)})`);
  });
  const group = el("optgroup", { label: "by label" }, photos.labels.map((label) => el("option", { value: `label:${label}` }, `${label} (${formatNumber(counts.get(label))})`)));
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

function drawJobs() {
  const { scan, suggestions } = photos.jobs;
  const lines = [];
  if (scan.state === "running") {
    lines.push(scan.note ? "Finding near-duplicates…" : `Reading photos: ${formatNumber(scan.done)} of ${formatNumber(scan.total)}`);
  } else if (scan.state === "failed") {
    lines.push(scan.note);
  }
  if (suggestions.state === "running" && suggestions.total) {
    lines.push(`Analyzing photos: ${formatNumber(suggestions.done)} of ${formatNumber(suggestions.total)}`);
  } else if (suggestions.state === "failed") {
    lines.push(suggestions.note);
  }
  if (photos.annotator) lines.push(`Labeling as ${photos.annotator}`);
  const stale = queue.filter === "all" ? 0 : queue.stale;
  const box = find("jobs");
  box.replaceChildren(
    ...lines.map((line) => el("span", {}, line)),
    ...(stale && queue.view === "grid"
      ? [el("button", { type: "button", on: { click: () => queue.rebuild() } }, `Hide ${formatNumber(stale)} finished (R)`)]
      : []),
  );
  box.hidden = !box.childElementCount;
}

function drawView() {
  find("grid").hidden = queue.view !== "grid";
  find("single").hidden = queue.view !== "single";
  document.body.dataset.view = queue.view;
  const empty = find("empty");
  empty.hidden = queue.list.length > 0;
  empty.textContent = queue.filter === "unlabeled"
    ? "All photos are labeled."
    : "No photos match.";
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
  queue.rebuild({ keep: false });
  if (queue.placeOf(state.get("at")) >= 0) queue.move(state.get("at"));
  queue.show({});
}

let next = 0;

function pollIn(milliseconds) {
  clearTimeout(next);
  next = setTimeout(poll, milliseconds);
}

async function poll() {
  try {
    const before = photos.rows.size;
    photos.update(await get(`/api/photos?since=${photos.clock}`));
    if (photos.rows.size !== before) queue.renew();
    if (document.body.classList.contains("lost")) {
      document.body.classList.remove("lost");
      toast("Reconnected.");
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
}

let waiting = 0;
function onNextFrame(draw) {
  // At most once a frame.
  if (!waiting) waiting = requestAnimationFrame(() => { waiting = 0; draw(); });
}

async function start() {
  bindControls();
  listenToKeys();
  photos.update(await get("/api/photos"));
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
  pollIn(BUSY_POLL_MS);
}

start().catch((error) => toast(error.message, { bad: true, stay: true }));
