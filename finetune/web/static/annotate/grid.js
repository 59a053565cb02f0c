// Virtualized grid of photos: only the visible cells are in the document.

import { imageOf } from "./api.js";
import { el, find, percent } from "./dom.js";
import { suggestionOf, labelText, fileName, isLabeled, photos } from "./photos.js";
import { queue } from "./queue.js";

const GAP = 10;
const SIZES = [96, 132, 176, 236, 320];
const OVERSCAN_ROWS = 2;
const REST_MS = 90; // images load only while scrolling is slow or has stopped

let size = 2;
let columns = 1;
let pitch = 1;
let drawn = new Map(); // place -> cell
let spare = [];
let isScrollSlow = true;
let lastTop = 0;
let timer = 0;

const box = find("grid");
const sheet = el("div", { className: "sheet" });
box.append(sheet);

export const columnsShown = () => columns;
export const rowsShown = () => Math.max(1, Math.floor(box.clientHeight / pitch));

export function zoom(by) {
  size = Math.min(Math.max(size + by, 0), SIZES.length - 1);
  layout();
  reveal();
}

function layout() {
  const width = box.clientWidth - 2 * GAP;
  if (width <= 0) return;
  const preferred = Math.min(SIZES[size], (width - GAP) / 2);
  columns = Math.max(1, Math.floor((width + GAP) / (preferred + GAP)));
  const side = (width + GAP) / columns - GAP;
  pitch = side + GAP;
  box.style.setProperty("--side", `${side}px`);
  sheet.style.height = `${Math.ceil(queue.list.length / columns) * pitch + GAP}px`;
  for (const cell of drawn.values()) retire(cell);
  drawn = new Map();
  draw();
}

function retire(cell) {
  cell.hidden = true;
  cell.removeAttribute("id");
  cell.picture.removeAttribute("src");
  spare.push(cell);
}

function make() {
  const picture = el("img", { alt: "", draggable: false, decoding: "async" });
  const tick = el("span", { className: "tick", "aria-hidden": "true" });
  const mark = el("span", { className: "mark", "aria-hidden": "true" });
  const tag = el("span", { className: "tag" });
  const cell = el("div", { role: "option", className: "cell" }, picture, tick, mark, tag);
  Object.assign(cell, { picture, tick, mark, tag });
  picture.addEventListener("error", () => cell.classList.add("broken"));
  picture.addEventListener("load", () => cell.classList.add("loaded"));
  sheet.append(cell);
  return cell;
}

function draw() {
  if (box.hidden || !columns) return;
  const first = Math.max(0, Math.floor(box.scrollTop / pitch) - OVERSCAN_ROWS) * columns;
  const rows = Math.ceil(box.clientHeight / pitch) + 2 * OVERSCAN_ROWS + 1;
  const end = Math.min(queue.list.length, first + rows * columns);
  for (const [place, cell] of drawn) {
    if (place < first || place >= end || cell.photo !== queue.list[place]) {
      retire(cell);
      drawn.delete(place);
    }
  }
  for (let place = first; place < end; place += 1) {
    if (!drawn.has(place)) {
      const cell = spare.pop() ?? make();
      drawn.set(place, cell);
      put(cell, place);
    }
    fill(drawn.get(place), place);
  }
  const current = drawn.get(queue.place);
  if (current) box.setAttribute("aria-activedescendant", current.id);
  else box.removeAttribute("aria-activedescendant");
}

function put(cell, place) {
  cell.photo = queue.list[place];
  cell.id = `cell-${cell.photo}`;
  cell.hidden = false;
  cell.classList.remove("broken", "loaded");
  const x = GAP + (place % columns) * pitch;
  const y = GAP + Math.floor(place / columns) * pitch;
  cell.style.transform = `translate(${x}px, ${y}px)`;
  cell.setAttribute("aria-posinset", place + 1);
}

function fill(cell, place) {
  const id = queue.list[place];
  const row = photos.get(id);
  const suggestion = suggestionOf(row);
  const labeled = isLabeled(row);
  const chosen = queue.selected.has(id);
  cell.setAttribute("aria-setsize", queue.list.length);
  cell.setAttribute("aria-selected", chosen);
  cell.classList.toggle("cursor", id === queue.cursor);
  cell.classList.toggle("labeled", labeled);
  cell.classList.toggle("out", Boolean(row.rejected));
  cell.classList.toggle("bad", Boolean(row.problem));
  cell.mark.textContent = (row.flag ? "⚑" : "") + (row.crop && row.cropSource === "person" ? " ▢" : "");
  let text = labelText(row);
  if (row.problem) text = row.problem;
  else if (!labeled && suggestion) text = `${suggestion.label} ${percent(suggestion.probability)}`;
  else if (!labeled) text = "";
  cell.tag.textContent = text;
  cell.tag.classList.toggle("suggested", !labeled && !row.problem);
  const shown = labeled ? row.labels?.[0] : suggestion?.label;
  if (shown) cell.style.setProperty("--hue", photos.hueOf(shown));
  cell.tag.classList.toggle("dotted", Boolean(shown));
  cell.setAttribute("aria-label", describe(row));
  if (isScrollSlow && !cell.picture.hasAttribute("src") && !row.problem) cell.picture.src = imageOf(id, "thumb");
}

export function describe(row) {
  const suggestion = suggestionOf(row);
  return [
    fileName(row),
    labelText(row) || (suggestion ? `probably ${suggestion.label}, ${percent(suggestion.probability)}` : "no label"),
    row.flag && "flagged",
    row.rejected && "rejected",
    row.problem && `cannot be opened: ${row.problem}`,
    row.faults?.join(", "),
  ].filter(Boolean).join(", ");
}

// Scrolls to the current photo.
export function reveal() {
  if (box.hidden || queue.place < 0) return;
  const top = GAP + Math.floor(queue.place / columns) * pitch;
  const view = box.scrollTop;
  if (top - GAP < view) box.scrollTop = top - GAP;
  else if (top + pitch > view + box.clientHeight) box.scrollTop = top + pitch - box.clientHeight;
  draw();
}

box.addEventListener("scroll", () => {
  const moved = Math.abs(box.scrollTop - lastTop);
  lastTop = box.scrollTop;
  isScrollSlow = moved < 1.5 * pitch;
  clearTimeout(timer);
  timer = setTimeout(() => {
    isScrollSlow = true;
    draw();
  }, REST_MS);
  requestAnimationFrame(draw);
}, { passive: true });

new ResizeObserver(() => {
  layout();
  reveal();
}).observe(box);

box.addEventListener("click", (event) => {
  const cell = event.target.closest(".cell");
  if (!cell) return;
  if (event.shiftKey) {
    queue.move(cell.photo, { extend: true });
  } else if (event.ctrlKey || event.metaKey || event.target === cell.tick) {
    queue.move(cell.photo);
    queue.toggle(cell.photo);
  } else {
    if (!queue.selected.has(cell.photo)) queue.selected.clear();
    queue.move(cell.photo);
  }
  box.focus({ preventScroll: true });
});

box.addEventListener("dblclick", (event) => {
  if (event.target.closest(".cell")) queue.show({ view: "single" });
});

queue.addEventListener("change", ({ detail }) => {
  if (queue.view !== "grid") return;
  if (detail === "list" || detail === "view") layout();
  if (detail === "list" || detail === "cursor" || detail === "view") reveal();
  draw();
});

photos.addEventListener("change", draw);
