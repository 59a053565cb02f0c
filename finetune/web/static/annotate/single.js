// Single-photo view: photo, near-duplicates, crop, comparison, and label conflicts.

import * as actions from "./actions.js";
import { get, imageOf, RequestError } from "./api.js";
import * as cohort from "./cohort.js";
import * as compare from "./compare.js";
import { CropBox } from "./crop.js";
import { keyCap, el, find } from "./dom.js";
import { describe } from "./grid.js";
import { formatNumber, formatTime, t, tn } from "./i18n.js";
import { conflict, fileName, folderName, labelText, photos } from "./photos.js";
import { queue } from "./queue.js";
import { sight } from "./sight.js";
import * as zoom from "./zoom.js";

const PRELOADED = 4;
const PRELOADED_SMALL = 8;
const CACHED = 16;
const STRIP = 24;
const PROPOSAL_TIMEOUT_MS = 900;

const box = find("single");
const pictures = new Map(); // id -> decoded image element
let shown = null;
let cropBox = null;

export const cropping = () => cropBox !== null;

const decoded = (picture) => picture.decode().then(() => true, () => false);

function pictureOf(id) {
  let picture = pictures.get(id);
  if (!picture) {
    picture = el("img", { alt: "", decoding: "async", draggable: false, className: "photo" });
    picture.src = imageOf(id, "view");
    picture.ready = decoded(picture).then((isGood) => {
      picture.isReady = true;
      return isGood;
    });
  }
  pictures.delete(id);
  pictures.set(id, picture);
  while (pictures.size > CACHED) pictures.delete(pictures.keys().next().value);
  return picture;
}

let small = new Map(); // id -> thumbnail, shown until the picture is there

function smallOf(id) {
  const known = small.get(id);
  if (known) return known;
  const picture = el("img", { alt: "", draggable: false, className: "under", src: imageOf(id, "thumb") });
  picture.ready = decoded(picture);
  return picture;
}

function preload() {
  const ids = queue.upcoming(PRELOADED_SMALL).filter((id) => !photos.get(id).problem);
  for (const id of ids.slice(0, PRELOADED)) pictureOf(id);
  small = new Map(ids.filter((id) => !pictures.get(id)?.isReady).map((id) => [id, smallOf(id)]));
}

// Resolves when a picture can be seen, be it small.
const anyReady = (choices) => Promise.any(choices.map((one) => one.ready.then((good) => good || Promise.reject()))).catch(() => false);

function caption(row) {
  const details = [
    !photos.annotator && folderName(row), // the folder may be the label that others gave
    row.taken && formatTime(row.taken),
    row.width && `${row.width} × ${row.height}`,
    row.faults?.map((fault) => t(fault)).join(", "),
  ].filter(Boolean);
  const marks = [
    row.stars && "★".repeat(row.stars),
    row.flag && `⚑ ${t("flagged")}`,
    row.rejected && `✕ ${t("rejected")}`,
    row.crop && `▢ ${t("cropped")}`,
  ].filter(Boolean);
  return el(
    "div",
    { className: "caption" },
    el("strong", { className: "file" }, fileName(row)),
    el("span", { className: "details" }, details.join(" · ")),
    marks.map((mark) => el("span", { className: "badge" }, mark)),
    el("span", { className: "place" }, t("{place} of {all}", { place: formatNumber(queue.place + 1), all: formatNumber(queue.list.length) })),
  );
}

function frameOf(row) {
  if (row.problem) {
    sight.watch(row.id, Promise.resolve());
    return el("div", { className: "frame broken" }, el("p", {}, t("This photo cannot be opened: {reason}.", { reason: t(row.problem) })));
  }
  const picture = pictureOf(row.id);
  picture.alt = describe(row);
  const under = !picture.isReady && smallOf(row.id);
  const holder = el("div", { className: "holder" }, under, picture);
  sight.watch(row.id, picture.isReady || !under ? picture.ready : anyReady([under, picture]));
  const fit = () => {
    // The holder has the photo's aspect ratio, so that the crop can be placed in percent.
    const [width, height] = [picture.naturalWidth || row.width || 3, picture.naturalHeight || row.height || 2];
    holder.style.setProperty("--ratio", `${width} / ${height}`);
    holder.style.setProperty("--wide", String(width / height));
  };
  fit();
  picture.ready.then((good) => {
    fit();
    if (under) under.remove();
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
  const frame = el("div", { className: "frame" }, holder);
  if (cropBox === null) zoom.mount(frame, holder, row);
  return frame;
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
        { className: "strip", role: "group", "aria-label": t("Near-duplicates") },
        el(
          "div",
          { className: "strip-head" },
          el("span", {}, queue.groupTargets.length ? tn("{count} near-duplicate, labeled together", "{count} near-duplicates, labeled together", group.length) : tn("{count} near-duplicate", "{count} near-duplicates", group.length)),
          queue.groupTargets.length > 0 && el("button", { type: "button", on: { click: () => queue.excludeGroup() } }, el("span", {}, t("Only this photo")), keyCap("Esc")),
          el("button", { type: "button", on: { click: actions.selectGroup } }, el("span", {}, t("Select all")), keyCap("G")),
          el("button", { type: "button", on: { click: () => startCompare() } }, el("span", {}, t("Compare")), keyCap("B")),
          el("button", { type: "button", on: { click: () => actions.keep() } }, el("span", {}, t("Keep this photo")), keyCap("K")),
        ),
        el("div", { className: "thumbs" }, group.slice(0, STRIP).map((id) => thumb(id, { current: id === row.id }))),
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
        ? t("Annotators gave this photo different labels. Which one is right?")
        : t("These near-duplicates have different labels. Which one is right?"),
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
            el("b", { className: "dotted" }, choice.labels.join(" + ") || t("none of the labels")),
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
  box.classList.toggle("comparing", compare.comparing());
  if (found) {
    box.replaceChildren(caption(row), resolveView(row, found));
    sight.watch(row.id, Promise.all([...box.querySelectorAll(".choice img")].map(decoded)));
  } else if (compare.comparing()) {
    box.replaceChildren(...compare.view(draw));
  } else {
    const below = cropBox ? [cropTools()] : [el("div", { className: "strips" }, strips(row)), cohort.panel(box.getBoundingClientRect())];
    box.replaceChildren(caption(row), frameOf(row), ...below.filter(Boolean));
  }
  box.setAttribute("aria-label", describe(row));
  if (focused) cropBox.frame.focus({ preventScroll: true });
  preload();
}

export function toggleZoom() {
  if (queue.view !== "single") queue.show({ view: "single" });
  return zoom.toggle();
}

export function startCompare() {
  if (queue.view !== "single") queue.show({ view: "single" });
  if (compare.start(photos.get(queue.cursor))) draw();
}

cohort.onChange(draw);

function cropTools() {
  const tool = (text, key, run, primary) =>
    el("button", { type: "button", className: primary ? "primary" : "", on: { click: run } }, el("span", {}, text), keyCap(key));
  return el(
    "div",
    { className: "crop-tools", role: "toolbar", "aria-label": t("Crop") },
    el("span", { className: "hint" }, t("Drag or use the arrow keys; + and − resize")),
    tool(t("Center"), "C", () => cropBox?.center()),
    tool(t("Full photo"), "W", () => cropBox?.fill()),
    tool(t("Remove"), "⌫", removeCrop),
    tool(t("Cancel"), "Esc", leaveCrop),
    tool(t("Save"), "⏎", saveCrop, true),
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
  zoom.reset();
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
  swipeStart = event.pointerType === "touch" && event.isPrimary && !aside && !zoom.zoomed() ? [event.clientX, event.clientY] : null;
});
box.addEventListener("pointerup", (event) => {
  if (swipeStart === null) return;
  const [dx, dy] = [event.clientX - swipeStart[0], event.clientY - swipeStart[1]];
  swipeStart = null;
  if (Math.abs(dx) > 50 && Math.abs(dx) > 2 * Math.abs(dy)) queue.step(dx < 0 ? 1 : -1);
});

queue.addEventListener("change", ({ detail }) => {
  if (detail === "cursor" && compare.comparing()) compare.stop();
  draw();
});
let drawnSize = "";
new ResizeObserver(() => {
  const size = `${box.clientWidth} ${box.clientHeight}`;
  if (size === drawnSize || cropBox !== null) return;
  drawnSize = size;
  draw();
}).observe(box);

let drawnCohort = null;
photos.addEventListener("change", ({ detail }) => {
  const row = photos.get(shown);
  if (queue.view !== "single" || cropBox !== null || zoom.dragging()) return;
  const near = new Set([shown, ...photos.group(row?.group), ...cohort.ticked()]);
  const isNew = (photos.cohort?.number ?? null) !== drawnCohort;
  if (detail.changed.some((id) => near.has(id)) || shown === null || isNew) draw();
  drawnCohort = photos.cohort?.number ?? null;
});
