// One photo, as large as the window; its look-alikes below; its square; or what contradicts it.

import * as actions from "./actions.js";
import { get, imageOf, Refused } from "./api.js";
import { SquareBox } from "./crop.js";
import { cap, count, el, find, percent } from "./dom.js";
import { describe } from "./grid.js";
import { contradiction, fileName, folderName, guessOf, isLabeled, labelText, photos } from "./photos.js";
import { queue } from "./queue.js";

const AHEAD = 3;
const KEPT = 12;
const STRIP = 24;
const PROPOSAL_MS = 900;

const box = find("single");
const pictures = new Map(); // id -> image element, decoded
let shown = null;
let square = null;
let cohort = { id: null, label: null, all: [], ids: [] };
let asking = null;

export const cropping = () => square !== null;
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
  while (pictures.size > KEPT) pictures.delete(pictures.keys().next().value);
  return picture;
}

function preload() {
  for (const id of queue.coming(AHEAD)) if (!photos.get(id).problem) pictureOf(id);
}

function caption(row) {
  const facts = [
    folderName(row),
    row.taken?.replace("T", " "),
    row.width && `${row.width} × ${row.height}`,
    row.faults?.join(", "),
  ].filter(Boolean);
  const marks = [row.flag && "⚑ flagged", row.rejected && "✕ rejected", row.crop && "▢ square"].filter(Boolean);
  return el(
    "div",
    { className: "caption" },
    el("strong", { className: "file" }, fileName(row)),
    el("span", { className: "facts" }, facts.join(" · ")),
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
    // The holder has the photo's shape, so that the square is placed in shares of it.
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
  if (row.crop && square === null) {
    const quiet = new SquareBox({ width: row.width, height: row.height, crop: row.crop });
    quiet.layer.classList.add("quiet");
    quiet.frame.removeAttribute("tabindex");
    quiet.frame.setAttribute("aria-hidden", "true");
    holder.append(quiet.layer);
  }
  if (square !== null) holder.append(square.layer);
  return el("div", { className: "frame" }, holder);
}

// Whether the next label goes to this photo, too.
const isMeant = (id) => queue.selected.has(id) || queue.company.includes(id);

function thumb(id, { current = false } = {}) {
  const row = photos.get(id);
  const picture = el("img", { src: imageOf(id, "thumb"), alt: "", draggable: false });
  const text = labelText(row);
  return el(
    "button",
    {
      type: "button",
      className: `thumb${current ? " current" : ""}${isMeant(id) ? " selected" : ""}${row.rejected ? " out" : ""}`,
      "aria-label": describe(row),
      "aria-pressed": String(isMeant(id)),
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
          el("span", {}, `${group.length} nearly the same${queue.company.length ? ", labeled together" : ""}`),
          queue.company.length > 0 && el("button", { type: "button", on: { click: () => queue.leaveAlone() } }, "Only this one", cap("Esc")),
          el("button", { type: "button", on: { click: actions.selectGroup } }, "Select all", cap("G")),
          el("button", { type: "button", on: { click: actions.keep } }, "Keep this one", cap("K")),
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
        { className: "strip cohort", role: "group", "aria-label": "Look-alikes" },
        el(
          "div",
          { className: "strip-head" },
          el("span", {}, `${found.ids.length} look alike, probably `, el("b", {}, found.label)),
          el(
            "button",
            { type: "button", className: "primary", on: { click: () => actions.acceptThese(found.label, found.ids) } },
            `Accept all ${found.ids.length}`,
            cap("A"),
          ),
          el("button", { type: "button", "aria-label": "Fewer", disabled: found.ids.length <= 2, on: { click: () => resizeCohort(0.5) } }, "Fewer", cap(",")),
          found.ids.length < found.all.length &&
            el("button", { type: "button", on: { click: () => resizeCohort(2) } }, "More", cap(".")),
        ),
        el("div", { className: "thumbs" }, found.ids.slice(0, STRIP).map((id) => thumb(id, { current: id === row.id }))),
      ),
    );
  }
  return parts;
}

function settling(row, found) {
  return el(
    "div",
    { className: "settle" },
    el(
      "p",
      { className: "lead" },
      found.kind === "votes"
        ? "Two people gave this photo different labels. Which one stands?"
        : "These photos are nearly the same, yet their labels differ. Which one stands?",
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
            on: { click: () => actions.settle(found, choice) },
          },
          el("img", { src: imageOf(choice.id, "view"), alt: describe(photos.get(choice.id)) }),
          el(
            "span",
            { className: "answer" },
            cap(String(place + 1)),
            el("b", { className: "dotted" }, choice.labels.join(" + ") || "none of the labels"),
            choice.who && el("span", { className: "who" }, choice.who.join(", ")),
          ),
        ),
      ),
    ),
  );
}

// What number keys choose from, when photos contradict each other.
export function choicesShown() {
  if (queue.view !== "single" || queue.filter !== "twice") return null;
  const row = photos.get(queue.cursor);
  return row ? contradiction(row) : null;
}

export function draw() {
  if (queue.view !== "single") return;
  const row = photos.get(queue.cursor);
  if (!row) {
    shown = null;
    box.replaceChildren();
    return;
  }
  if (square !== null && shown !== row.id) square = null;
  shown = row.id;
  const focused = square?.frame === document.activeElement;
  const found = choicesShown();
  if (found) {
    box.replaceChildren(caption(row), settling(row, found));
  } else {
    box.replaceChildren(caption(row), frameOf(row), square ? cropTools() : el("div", { className: "strips" }, strips(row)));
  }
  box.setAttribute("aria-label", describe(row));
  if (focused) square.frame.focus({ preventScroll: true });
  preload();
  askForCohort(row);
}

async function askForCohort(row) {
  // Look-alikes that are shown stay as they are: a key may be on its way to accept them.
  if (cohort.id === row.id && (cohort.suggestedCount === photos.suggestedCount || cohort.ids.length > 1)) return;
  const guess = guessOf(row);
  if (!guess || isLabeled(row) || row.problem) return;
  cohort = { id: row.id, suggestedCount: photos.suggestedCount, label: guess.label, all: [], ids: [] };
  asking?.abort();
  asking = new AbortController();
  try {
    const answer = await get(`/api/cohort?photo=${row.id}`, { signal: asking.signal });
    if (shown !== row.id) return;
    cohort = { ...cohort, label: answer.label, all: answer.ids, ids: answer.ids };
    box.dataset.cohort = `${row.id} ${cohort.suggestedCount}`;
    if (answer.ids.length > 1) draw();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
  }
}

// Shows half as many look-alikes, those that are most like the photo; or twice as many.
export function resizeCohort(factor) {
  if (!cohortShown()) return;
  const many = Math.round(Math.min(Math.max(cohort.ids.length * factor, 2), cohort.all.length));
  cohort = { ...cohort, ids: cohort.all.slice(0, many) };
  draw();
}

function cropTools() {
  const tool = (text, key, run, primary) =>
    el("button", { type: "button", className: primary ? "primary" : "", on: { click: run } }, text, cap(key));
  return el(
    "div",
    { className: "crop-tools", role: "toolbar", "aria-label": "Square" },
    el("span", { className: "hint" }, "Drag, or arrows; + and − resize"),
    tool("Center", "C", () => square?.center()),
    tool("Whole photo", "W", () => square?.whole()),
    tool("No square", "⌫", removeSquare),
    tool("Cancel", "Esc", leaveCrop),
    tool("Accept", "⏎", acceptCrop, true),
  );
}

export async function enterCrop() {
  const row = photos.get(queue.cursor);
  if (!row || row.problem) return;
  if (queue.view !== "single") queue.show({ view: "single" });
  const picture = pictureOf(row.id);
  const [crop] = await Promise.all([row.crop ?? proposedSquare(row.id), picture.ready]);
  if (queue.cursor !== row.id) return;
  const [width, height] = [row.width ?? picture.naturalWidth, row.height ?? picture.naturalHeight];
  square = new SquareBox({ width, height, crop });
  draw();
  square.frame.focus({ preventScroll: true });
}

// What a machine takes for the subject; the center where it has not looked, or takes too long.
async function proposedSquare(id) {
  const late = new Promise((resolve) => {
    setTimeout(() => resolve({ crop: null }), PROPOSAL_MS);
  });
  try {
    return (await Promise.race([get(`/api/subject-crop?photo=${id}`), late])).crop;
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    return null;
  }
}

export function leaveCrop() {
  square = null;
  draw();
  box.focus({ preventScroll: true });
}

export function acceptCrop() {
  const id = queue.cursor;
  const crop = square.crop.map((value) => Math.round(value * 1e5) / 1e5);
  leaveCrop();
  return actions.crop(id, crop);
}

export function removeSquare() {
  const id = queue.cursor;
  leaveCrop();
  return actions.crop(id, null);
}

// Keys while the square is being placed; returns whether the key was one of them.
export function cropKey(event) {
  const step = event.shiftKey ? 0.1 : 0.01;
  const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (moves[event.key]) square.nudge(...moves[event.key], step);
  else if (event.key === "+" || event.key === "=") square.resize(1.05);
  else if (event.key === "-" || event.key === "_") square.resize(1 / 1.05);
  else if (event.key === "Enter" && event.shiftKey) acceptCrop().then(() => queue.step(1)).then(enterCrop);
  else if (event.key === "Enter") acceptCrop();
  else if (event.key === "Escape") leaveCrop();
  else if (event.key === "Backspace" || event.key === "Delete") removeSquare();
  else if (event.key.toLowerCase() === "c") square.center();
  else if (event.key.toLowerCase() === "w") square.whole();
  else return false;
  return true;
}

// A finger's swipe turns the page.
let touched = null;
box.addEventListener("pointerdown", (event) => {
  const aside = event.target.closest("button, .square, .thumbs");
  touched = event.pointerType === "touch" && !aside ? [event.clientX, event.clientY] : null;
});
box.addEventListener("pointerup", (event) => {
  if (touched === null) return;
  const [dx, dy] = [event.clientX - touched[0], event.clientY - touched[1]];
  touched = null;
  if (Math.abs(dx) > 50 && Math.abs(dx) > 2 * Math.abs(dy)) queue.step(dx < 0 ? 1 : -1);
});

queue.addEventListener("change", draw);
photos.addEventListener("change", ({ detail }) => {
  const row = photos.get(shown);
  if (queue.view !== "single" || square !== null) return;
  const near = new Set([shown, ...photos.group(row?.group), ...(cohortShown()?.ids ?? [])]);
  if (detail.changed.some((id) => near.has(id)) || shown === null) draw();
  else if (row) askForCohort(row);
});
