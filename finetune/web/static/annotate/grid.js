// Virtualized grid of photos: only the visible cells are in the document.

import { imageOf } from "./api.js";
import { el, find } from "./dom.js";
import { formatDay, percent, t, tn } from "./i18n.js";
import { lines } from "./lines.js";
import { suggestionOf, labelText, fileName, isLabeled, nameOf, photos } from "./photos.js";
import { queue } from "./queue.js";
import { sight } from "./sight.js";

const GAP = 10;
const HEADER = 34;
const SIZES = [96, 132, 176, 236, 320];
const OVERSCAN_ROWS = 2;
const REST_MS = 90; // images load only while scrolling is slow or has stopped
const PRESS_MS = 450; // a finger that stays so long selects

let size = 2;
let columns = 1;
let pitch = 1;
let rows = lines([], 1, { pitch: 1, header: 0 });
let drawn = new Map(); // place -> cell
let headers = new Map(); // day -> heading
let spare = [];
let isScrollSlow = true;
let lastTop = 0;
let timer = 0;
let selectsByTouch = false;

const box = find("grid");
const sheet = el("div", { className: "sheet" });
const timeline = el("nav", { className: "timeline", "aria-label": t("Time line"), hidden: true });
box.append(sheet);
box.after(timeline);

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
  const dayOf = queue.sort === "time" ? (id) => photos.get(id)?.taken?.slice(0, 10) ?? "" : null;
  rows = lines(queue.list, columns, { pitch, header: HEADER, dayOf });
  sheet.style.height = `${rows.height + GAP}px`;
  for (const cell of drawn.values()) retire(cell);
  drawn = new Map();
  for (const heading of headers.values()) heading.remove();
  headers = new Map();
  drawTimeline();
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
  const stack = el("span", { className: "stack", "aria-hidden": "true", hidden: true });
  const tag = el("span", { className: "tag" });
  const cell = el("div", { role: "option", className: "cell" }, picture, tick, mark, stack, tag);
  Object.assign(cell, { picture, tick, mark, stack, tag });
  picture.addEventListener("error", () => cell.classList.add("broken"));
  picture.addEventListener("load", () => cell.classList.add("loaded"));
  for (const type of ["error", "load"]) picture.addEventListener(type, () => cell.isReady());
  sheet.append(cell);
  return cell;
}

function draw() {
  if (box.hidden || !columns) return;
  const above = OVERSCAN_ROWS * pitch;
  const { first, end } = rows.between(box.scrollTop - above, box.scrollTop + box.clientHeight + above);
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
  drawHeaders(first, end);
  const current = drawn.get(queue.place);
  if (current) sight.watch(queue.cursor, current.ready);
  if (current) box.setAttribute("aria-activedescendant", current.id);
  else box.removeAttribute("aria-activedescendant");
}

const dayText = (day) => (day ? formatDay(day) : t("Without a date"));

function drawHeaders(first, end) {
  const shown = rows.headers.filter(({ place }) => place >= first - columns && place < end);
  const days = new Set(shown.map(({ day }) => day));
  for (const [day, heading] of headers) {
    if (!days.has(day)) {
      heading.remove();
      headers.delete(day);
    }
  }
  for (const { day, top, count } of shown) {
    if (headers.has(day)) continue;
    const text = `${dayText(day)} · ${tn("{count} photo", "{count} photos", count)}`;
    const heading = el("div", { className: "day", role: "presentation" }, text);
    heading.style.transform = `translate(${GAP}px, ${top + GAP}px)`;
    sheet.append(heading);
    headers.set(day, heading);
  }
}

// Days to jump to, at most one for each 30 pixels of the height.
function drawTimeline() {
  const most = Math.max(2, Math.floor(box.clientHeight / 30));
  const step = Math.ceil(rows.headers.length / most);
  timeline.hidden = rows.headers.length < 2 || box.hidden;
  box.classList.toggle("with-timeline", !timeline.hidden);
  if (timeline.hidden) return;
  timeline.replaceChildren(
    ...rows.headers
      .filter((_, number) => number % step === 0)
      .map(({ day, top, place }) =>
        el("button", { type: "button", tabIndex: -1, on: { click: () => jump(top, place) } }, day ? day.slice(2) : "–"),
      ),
  );
}

function jump(top, place) {
  queue.move(queue.list[place]);
  box.scrollTop = top;
  box.focus({ preventScroll: true });
}

function put(cell, place) {
  cell.photo = queue.list[place];
  cell.ready = new Promise((resolve) => { cell.isReady = resolve; });
  if (photos.get(cell.photo)?.problem) cell.isReady();
  cell.id = `cell-${cell.photo}`;
  cell.hidden = false;
  cell.classList.remove("broken", "loaded");
  const { row, column } = rows.at(place);
  cell.style.transform = `translate(${GAP + column * pitch}px, ${GAP + row}px)`;
  cell.setAttribute("aria-posinset", place + 1);
}

function fill(cell, place) {
  const id = queue.list[place];
  const row = photos.get(id);
  if (!row) return;
  const suggestion = suggestionOf(row);
  const labeled = isLabeled(row);
  const chosen = queue.selected.has(id);
  const stack = queue.stackOf(id).length;
  cell.setAttribute("aria-setsize", queue.list.length);
  cell.setAttribute("aria-selected", chosen);
  cell.classList.toggle("cursor", id === queue.cursor);
  cell.classList.toggle("labeled", labeled);
  cell.classList.toggle("out", Boolean(row.rejected));
  cell.classList.toggle("bad", Boolean(row.problem));
  cell.classList.toggle("stacked", stack > 1);
  cell.stack.hidden = stack < 2;
  cell.stack.textContent = stack;
  cell.mark.textContent =
    "★".repeat(row.stars ?? 0) + (row.flag ? "⚑" : "") + (row.crop && row.cropSource === "person" ? " ▢" : "");
  let text = labelText(row);
  if (row.problem) text = t(row.problem);
  else if (!labeled) text = suggestion ? suggested(suggestion) : "";
  cell.tag.textContent = text;
  cell.tag.classList.toggle("suggested", !labeled && !row.problem);
  const shown = labeled ? row.labels?.[0] : suggestion?.label;
  if (shown) cell.style.setProperty("--hue", photos.hueOf(shown));
  cell.tag.classList.toggle("dotted", Boolean(shown));
  cell.setAttribute("aria-label", describe(row, stack));
  if (isScrollSlow && !cell.picture.hasAttribute("src") && !row.problem) cell.picture.src = imageOf(id, "thumb");
}

const suggested = ({ label, share }) =>
  share === undefined ? `${nameOf(label)}?` : `${nameOf(label)} ${percent(share)}`;

export function describe(row, stack = 1) {
  const suggestion = suggestionOf(row);
  return [
    fileName(row),
    labelText(row) || (suggestion ? t("probably {label}", { label: suggested(suggestion) }) : t("no label")),
    stack > 1 && tn("{count} near-duplicate", "{count} near-duplicates", stack),
    row.stars && tn("{count} star", "{count} stars", row.stars),
    row.flag && t("flagged"),
    row.rejected && t("rejected"),
    row.problem && t("cannot be opened: {reason}", { reason: t(row.problem) }),
    row.faults?.map((fault) => t(fault)).join(", "),
  ].filter(Boolean).join(", ");
}

// Scrolls to the current photo.
export function reveal() {
  if (box.hidden || queue.place < 0) return;
  const top = GAP + rows.at(queue.place).row;
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

function select(id) {
  queue.move(id);
  queue.toggle(id);
}

box.addEventListener("click", (event) => {
  const cell = event.target.closest(".cell");
  if (!cell || pressed) return;
  if (selectsByTouch && !queue.selected.size) selectsByTouch = false;
  if (event.shiftKey) {
    queue.move(cell.photo, { extend: true });
  } else if (event.ctrlKey || event.metaKey || event.target === cell.tick || selectsByTouch) {
    select(cell.photo);
  } else {
    if (!queue.selected.has(cell.photo)) queue.selected.clear();
    queue.move(cell.photo);
  }
  box.focus({ preventScroll: true });
});

// A long press selects; after that, each tap selects or deselects a photo.
let press = 0;
let pressed = false; // the click that ends a long press does nothing more
box.addEventListener("pointerdown", (event) => {
  const cell = event.target.closest(".cell");
  clearTimeout(press);
  pressed = false;
  if (event.pointerType !== "touch" || !cell) return;
  press = setTimeout(() => {
    selectsByTouch = true;
    if (!queue.selected.has(cell.photo)) select(cell.photo);
    pressed = true;
  }, PRESS_MS);
});
for (const type of ["pointerup", "pointercancel", "pointerleave"]) box.addEventListener(type, () => clearTimeout(press));
box.addEventListener("contextmenu", (event) => selectsByTouch && event.preventDefault());

box.addEventListener("dblclick", (event) => {
  if (event.target.closest(".cell")) queue.show({ view: "single" });
});

queue.addEventListener("change", ({ detail }) => {
  if (queue.view !== "grid") {
    timeline.hidden = true;
    return;
  }
  if (detail === "list" || detail === "view") layout();
  if (detail === "list" || detail === "cursor" || detail === "view") reveal();
  draw();
});

photos.addEventListener("change", draw);
