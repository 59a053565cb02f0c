// Single-photo view: photo, near-duplicates, similar photos, crop, and label conflicts.

import * as actions from "./actions.js";
import { get, imageOf, RequestError } from "./api.js";
import { CropBox } from "./crop.js";
import { keyCap, count, el, find, percent } from "./dom.js";
import { describe } from "./grid.js";
import { conflict, fileName, folderName, suggestionOf, isLabeled, labelText, photos } from "./photos.js";
import { queue } from "./queue.js";

const PRELOADED = 3;
const CACHED = 12;
const STRIP = 24;
const PROPOSAL_TIMEOUT_MS = 900;

const box = find("single");
const pictures = new Map(); // id -> decoded image element
let shown = null;
let cropBox = null;
let cohort = { id: null, label: null, all: [], ids: [] };
let pendingRequest = null;

export const cropping = () => cropBox !== null;
export const cohortShown = () => (cohort.id === queue.cursor ? cohort : null);

function pictureOf(id) {
  let picture = pictures.get(id);
  if (!picture) {
    picture = el("img", { alt: "", decoding: "async", draggable: false, className: "photo" });
    picture.src = imageOf(id, "view");
    picture.ready = picture.decode().then(
      () => true,
      () => false,
    );
  }
  pictures.delete(id);
  pictures.set(id, picture);
  while (pictures.size > CACHED) pictures.delete(pictures.keys().next().value);
  return picture;
}

function preload() {
  for (const id of queue.upcoming(PRELOADED)) if (!photos.get(id).problem) pictureOf(id);
}

function caption(row) {
  const details = [
    folderName(row),
    row.taken?.replace("T", " "),
    row.width && `${row.width} × ${row.height}`,
    row.faults?.join(", "),
  ].filter(Boolean);
  const marks = [row.flag && "⚑ flagged", row.rejected && "✕ rejected", row.crop && "▢ cropped"].filter(Boolean);
  return el(
    "div",
    { className: "caption" },
    el("strong", { className: "file" }, fileName(row)),
    el("span", { className: "details" }, details.join(" · ")),
    marks.map((mark) => el("span", { className: "badge" }, mark)),
    el("span", { className: "place" }, `${queue.place + 1} of ${queue.list.length.toLocaleString("en")}`),
  );
}

function frameOf(row) {
  if (row.problem) {
    return el("div", { className: "frame broken" }, el("p", {}, `This photo cannot be opened: ${row.problem}.`));
  }
  const picture = pictureOf(row.id);
  picture.alt = describe(row);
  const holder = el("div", { className: "holder" }, picture);
  const fit = () => {
    // The holder has the photo's aspect ratio, so that the crop can be placed in percent.
    const [width, height] = [picture.naturalWidth || row.width || 3, picture.naturalHeight || row.height || 2];
    holder.style.setProperty("--ratio", `${width} / ${height}`);
    holder.style.setProperty("--wide", String(width / height));
  };
  fit();
  picture.ready.then((good) => {
    fit();
    if (!good) holder.classList.add("broken");
    else if (shown === row.id) box.dispatchEvent(new CustomEvent("photo-shown", { detail: row.id }));
  });
  if (row.crop && cropBox === null) {
    const preview = new CropBox({ width: row.width, height: row.height, crop: row.crop });
    preview.layer.classList.add("quiet");
    preview.frame.removeAttribute("tabindex");
    preview.frame.setAttribute("aria-hidden", "true");
    holder.append(preview.layer);
  }
  if (cropBox !== null) holder.append(cropBox.layer);
  return el("div", { className: "frame" }, holder);
}

// Whether the next label applies to this photo.
const isTarget = (id) => queue.selected.has(id) || queue.groupTargets.includes(id);

function thumb(id, { current = false } = {}) {
  const row = photos.get(id);
  const picture = el("img", { src: imageOf(id, "thumb"), alt: "", draggable: false });
  const text = labelText(row);
  return el(
    "button",
    {
      type: "button",
      className: `thumb${current ? " current" : ""}${isTarget(id) ? " selected" : ""}${row.rejected ? " out" : ""}`,
      "aria-label": describe(row),
      "aria-pressed": String(isTarget(id)),
      title: fileName(row),
      on: {
        click: (event) => {
          if (event.ctrlKey || event.metaKey || event.shiftKey) queue.toggle(id);
          else if (queue.placeOf(id) >= 0) queue.move(id);
          else queue.toggle(id);
        },
      },
    },
    picture,
    text && el("span", { className: "tag dotted", css: { "--hue": photos.hueOf(row.labels?.[0]) } }, text),
  );
}

function strips(row) {
  const parts = [];
  const group = photos.group(row.group);
  if (group.length > 1) {
    parts.push(
      el(
        "div",
        { className: "strip", role: "group", "aria-label": "Near-duplicates" },
        el(
          "div",
          { className: "strip-head" },
          el("span", {}, `${group.length} near-duplicates${queue.groupTargets.length ? ", labeled together" : ""}`),
          queue.groupTargets.length > 0 && el("button", { type: "button", on: { click: () => queue.excludeGroup() } }, "Only this photo", keyCap("Esc")),
          el("button", { type: "button", on: { click: actions.selectGroup } }, "Select all", keyCap("G")),
          el("button", { type: "button", on: { click: actions.keep } }, "Keep this photo", keyCap("K")),
        ),
        el("div", { className: "thumbs" }, group.slice(0, STRIP).map((id) => thumb(id, { current: id === row.id }))),
      ),
    );
  }
  const found = cohortShown();
  if (found && found.ids.length > 1) {
    parts.push(
      el(
        "div",
        { className: "strip cohort", role: "group", "aria-label": "Similar photos" },
        el(
          "div",
          { className: "strip-head" },
          el("span", {}, `${found.ids.length} similar photos, probably `, el("b", {}, found.label)),
          el(
            "button",
            { type: "button", className: "primary", on: { click: () => actions.acceptAll(found.label, found.ids) } },
            `Accept all ${found.ids.length}`,
            keyCap("A"),
          ),
          el("button", { type: "button", "aria-label": "Fewer", disabled: found.ids.length <= 2, on: { click: () => resizeCohort(0.5) } }, "Fewer", keyCap(",")),
          found.ids.length < found.all.length &&
            el("button", { type: "button", on: { click: () => resizeCohort(2) } }, "More", keyCap(".")),
        ),
        el("div", { className: "thumbs" }, found.ids.slice(0, STRIP).map((id) => thumb(id, { current: id === row.id }))),
      ),
    );
  }
  return parts;
}

function resolveView(row, found) {
  return el(
    "div",
    { className: "conflict" },
    el(
      "p",
      { className: "lead" },
      found.kind === "votes"
        ? "Annotators gave this photo different labels. Which one is right?"
        : "These near-duplicates have different labels. Which one is right?",
    ),
    el(
      "div",
      { className: "choices" },
      found.choices.map((choice, place) =>
        el(
          "button",
          {
            type: "button",
            className: "choice",
            css: { "--hue": photos.hueOf(choice.labels[0]) },
            on: { click: () => actions.resolve(found, choice) },
          },
          el("img", { src: imageOf(choice.id, "view"), alt: describe(photos.get(choice.id)) }),
          el(
            "span",
            { className: "assigned" },
            keyCap(String(place + 1)),
            el("b", { className: "dotted" }, choice.labels.join(" + ") || "none of the labels"),
            choice.who && el("span", { className: "who" }, choice.who.join(", ")),
          ),
        ),
      ),
    ),
  );
}

// Conflict that the number keys resolve, or null.
export function shownConflict() {
  if (queue.view !== "single" || queue.filter !== "conflicts") return null;
  const row = photos.get(queue.cursor);
  return row ? conflict(row) : null;
}

export function draw() {
  if (queue.view !== "single") return;
  const row = photos.get(queue.cursor);
  if (!row) {
    shown = null;
    box.replaceChildren();
    return;
  }
  if (cropBox !== null && shown !== row.id) cropBox = null;
  shown = row.id;
  const focused = cropBox?.frame === document.activeElement;
  const found = shownConflict();
  if (found) {
    box.replaceChildren(caption(row), resolveView(row, found));
  } else {
    box.replaceChildren(caption(row), frameOf(row), cropBox ? cropTools() : el("div", { className: "strips" }, strips(row)));
  }
  box.setAttribute("aria-label", describe(row));
  if (focused) cropBox.frame.focus({ preventScroll: true });
  preload();
  askForCohort(row);
}

async function askForCohort(row) {
  // Similar photos on screen stay: a key to accept them may follow.
  if (cohort.id === row.id && (cohort.suggestedCount === photos.suggestedCount || cohort.ids.length > 1)) return;
  const suggestion = suggestionOf(row);
  if (!suggestion || isLabeled(row) || row.problem) return;
  cohort = { id: row.id, suggestedCount: photos.suggestedCount, label: suggestion.label, all: [], ids: [] };
  pendingRequest?.abort();
  pendingRequest = new AbortController();
  try {
    const response = await get(`/api/cohort?photo=${row.id}`, { signal: pendingRequest.signal });
    if (shown !== row.id) return;
    cohort = { ...cohort, label: response.label, all: response.ids, ids: response.ids };
    box.dataset.cohort = `${row.id} ${cohort.suggestedCount}`;
    if (response.ids.length > 1) draw();
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
  }
}

// Shows fewer or more similar photos, the most similar ones first.
export function resizeCohort(factor) {
  if (!cohortShown()) return;
  const many = Math.round(Math.min(Math.max(cohort.ids.length * factor, 2), cohort.all.length));
  cohort = { ...cohort, ids: cohort.all.slice(0, many) };
  draw();
}

function cropTools() {
  const tool = (text, key, run, primary) =>
    el("button", { type: "button", className: primary ? "primary" : "", on: { click: run } }, text, keyCap(key));
  return el(
    "div",
    { className: "crop-tools", role: "toolbar", "aria-label": "Crop" },
    el("span", { className: "hint" }, "Drag or use the arrow keys; + and − resize"),
    tool("Center", "C", () => cropBox?.center()),
    tool("Full photo", "W", () => cropBox?.fill()),
    tool("Remove", "⌫", removeCrop),
    tool("Cancel", "Esc", leaveCrop),
    tool("Save", "⏎", saveCrop, true),
  );
}

export async function enterCrop() {
  const row = photos.get(queue.cursor);
  if (!row || row.problem) return;
  if (queue.view !== "single") queue.show({ view: "single" });
  const picture = pictureOf(row.id);
  const [crop] = await Promise.all([row.crop ?? proposedCrop(row.id), picture.ready]);
  if (queue.cursor !== row.id) return;
  const [width, height] = [row.width ?? picture.naturalWidth, row.height ?? picture.naturalHeight];
  cropBox = new CropBox({ width, height, crop });
  draw();
  cropBox.frame.focus({ preventScroll: true });
}

// Crop proposed by the server, or null if it has none in time.
async function proposedCrop(id) {
  const late = new Promise((resolve) => {
    setTimeout(() => resolve({ crop: null }), PROPOSAL_TIMEOUT_MS);
  });
  try {
    return (await Promise.race([get(`/api/subject-crop?photo=${id}`), late])).crop;
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    return null;
  }
}

export function leaveCrop() {
  cropBox = null;
  draw();
  box.focus({ preventScroll: true });
}

export function saveCrop() {
  const id = queue.cursor;
  const crop = cropBox.crop.map((value) => Math.round(value * 1e5) / 1e5);
  leaveCrop();
  return actions.crop(id, crop);
}

export function removeCrop() {
  const id = queue.cursor;
  leaveCrop();
  return actions.crop(id, null);
}

// Handles a key while cropping; returns whether it was used.
export function cropKey(event) {
  const step = event.shiftKey ? 0.1 : 0.01;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (moves[event.key]) cropBox.nudge(...moves[event.key], step);
  else if (event.key === "+" || event.key === "=") cropBox.resize(1.05);
  else if (event.key === "-" || event.key === "_") cropBox.resize(1 / 1.05);
  else if (event.key === "Enter" && event.shiftKey) saveCrop().then(() => queue.step(1)).then(enterCrop);
  else if (event.key === "Enter") saveCrop();
  else if (event.key === "Escape") leaveCrop();
  else if (event.key === "Backspace" || event.key === "Delete") removeCrop();
  else if (event.key.toLowerCase() === "c") cropBox.center();
  else if (event.key.toLowerCase() === "w") cropBox.fill();
  else return false;
  return true;
}

// A swipe shows the next or previous photo.
let swipeStart = null;
box.addEventListener("pointerdown", (event) => {
  const aside = event.target.closest("button, .crop-box, .thumbs");
  swipeStart = event.pointerType === "touch" && !aside ? [event.clientX, event.clientY] : null;
});
box.addEventListener("pointerup", (event) => {
  if (swipeStart === null) return;
  const [dx, dy] = [event.clientX - swipeStart[0], event.clientY - swipeStart[1]];
  swipeStart = null;
  if (Math.abs(dx) > 50 && Math.abs(dx) > 2 * Math.abs(dy)) queue.step(dx < 0 ? 1 : -1);
});

queue.addEventListener("change", draw);
photos.addEventListener("change", ({ detail }) => {
  const row = photos.get(shown);
  if (queue.view !== "single" || cropBox !== null) return;
  const near = new Set([shown, ...photos.group(row?.group), ...(cohortShown()?.ids ?? [])]);
  if (detail.changed.some((id) => near.has(id)) || shown === null) draw();
  else if (row) askForCohort(row);
});
