// Photos whose labels are probably right, in a grid below the current photo: each is ticked, and one
// key labels exactly those that are, each as its tile says.

import * as actions from "./actions.js";
import { imageOf } from "./api.js";
import { el, keyCap } from "./dom.js";
import { percent, t, tn } from "./i18n.js";
import { fileName, isLabeled, nameOf, photos } from "./photos.js";
import { queue } from "./queue.js";
import { toast } from "./toast.js";

const TILE = 96; // pixels with the gap
const LEAST = 10; // fewer are not offered
const REACTION_MS = 400;
const TYPING_MS = 900; // a second digit of a number comes within this time

let shown = null; // {labelOf, all, ids, out}: `ids` are visible, those in `out` unticked
let typed = "";
let timer = 0;
let isChoosing = false; // whether digits untick photos
let redraw = () => {};

export const onChange = (draw) => {
  redraw = draw;
};

// Photos of a cohort that still wait for a label.
const open = (ids) => ids.filter((id) => photos.get(id) && !isLabeled(photos.get(id)) && !photos.get(id).rejected);

const labelsOf = (offer) => new Map(offer.ids.map((id, place) => [id, offer.labels[place]]));

// Whether another offer begins with the photos on screen, with the same labels.
function isSame(one, other) {
  if (other === null) return false;
  const labels = labelsOf(other);
  const first = new Set(other.ids.slice(0, one.ids.length));
  return one.ids.every((id) => first.has(id) && labels.get(id) === one.labelOf.get(id));
}

// The latest offer, unless photos of the one on screen have been unticked.
function current() {
  const offer = photos.cohort;
  const isHere = queue.view === "single" && queue.filter === "unlabeled";
  if (shown && !shown.out.size && shown.number !== offer?.number) {
    if (isSame(shown, offer)) shown.number = offer.number;
    else shown = null;
  }
  if (shown) shown.all = open(shown.all);
  if (shown && shown.all.length < LEAST) shown = null;
  if (!shown && offer && isHere && offer.number !== dismissed) {
    const ids = open(offer.ids);
    if (ids.length >= LEAST) shown = { number: offer.number, labelOf: labelsOf(offer), all: ids, ids, out: new Set(), since: performance.now() };
  }
  return isHere ? shown : null;
}

let dismissed = null;

export const ticked = () => (shown ? shown.ids.filter((id) => !shown.out.has(id)) : []);
export const choosing = () => isChoosing && shown !== null;

export function accept() {
  const ids = ticked();
  if (!shown) {
    toast(t("No similar photos are shown. They appear when enough photos of a kind are labeled."));
    return undefined;
  }
  if (!ids.length) {
    toast(t("No photo is ticked."));
    return undefined;
  }
  const isVisible = [...document.querySelectorAll(".cohort .tile img")].every((image) => image.complete);
  if (!isVisible || performance.now() - shown.since < REACTION_MS) {
    toast(t("These photos have just appeared. Look at them, then press A."));
    return undefined;
  }
  const choices = Object.fromEntries(ids.map((id) => [id, shown.labelOf.get(id)]));
  const [first] = shown.ids.filter((id) => shown.out.has(id));
  dismiss();
  return actions.acceptAll(choices, first);
}

export function dismiss() {
  if (!shown) return;
  dismissed = shown.number;
  shown = null;
  isChoosing = false;
  redraw();
}

function toggle(id) {
  if (!shown.out.delete(id)) shown.out.add(id);
  redraw();
}

export function startChoosing() {
  if (!shown) return;
  isChoosing = !isChoosing;
  typed = "";
  redraw();
}

// Takes a digit of the number of a photo to untick.
export function digit(key) {
  typed += key;
  clearTimeout(timer);
  const number = Number(typed);
  const more = number * 10 <= shown.ids.length && number > 0;
  if (!more) commit();
  else timer = setTimeout(commit, TYPING_MS);
}

function commit() {
  const id = shown?.ids[Number(typed) - 1];
  typed = "";
  if (id !== undefined) toggle(id);
}

function tile(id, number) {
  const isIn = !shown.out.has(id);
  const label = shown.labelOf.get(id);
  return el(
    "button",
    {
      type: "button",
      className: `tile${isIn ? " in" : ""}${id === queue.cursor ? " current" : ""}`,
      "aria-pressed": String(isIn),
      "aria-label": `${number}, ${fileName(photos.get(id))}: ${nameOf(label)}`,
      title: fileName(photos.get(id)),
      data: { label },
      on: { click: () => toggle(id) },
    },
    el("img", { src: imageOf(id, "thumb"), alt: "", draggable: false }),
    el("span", { className: "number", "aria-hidden": "true" }, String(number)),
    el("span", { className: label ? "tag dotted" : "tag", "aria-hidden": "true", css: { "--hue": photos.hueOf(label) } }, nameOf(label)),
  );
}

// Returns the panel for a stage of this size, or null. All photos that it is about are visible.
export function panel({ width, height }) {
  if (width < TILE) return null; // the stage is hidden
  const found = current();
  if (!found) return null;
  const columns = Math.max(2, Math.floor((width - 28) / TILE));
  const lines = Math.max(1, Math.min(3, Math.floor((height * 0.45) / TILE)));
  // The surest ones, one label after the other.
  const order = [...photos.labels, ""]; // none of the labels last
  const place = (id) => order.indexOf(found.labelOf.get(id));
  found.ids = found.all.slice(0, columns * lines).sort((a, b) => place(a) - place(b));
  const number = ticked().length;
  const labels = [...new Set(found.ids.map((id) => found.labelOf.get(id)))];
  const isOne = labels.length === 1;
  const about = isOne
    ? tn("{count} photo looks like", "{count} photos look like", found.ids.length)
    : tn("{count} photo probably shows what it says", "{count} photos probably show what they say", found.ids.length);
  const shares = found.ids.map((id) => photos.get(id).share).filter((share) => share !== undefined);
  const mean = shares.reduce((sum, share) => sum + share, 0) / shares.length;
  return el(
    "section",
    { className: "cohort", "aria-label": t("Similar photos"), data: { number: String(found.number) } },
    el(
      "div",
      { className: "strip-head" },
      el("span", {}, el("span", { className: "about" }, about, " "), isOne && el("b", { className: "dotted", css: { "--hue": photos.hueOf(labels[0]) } }, nameOf(labels[0]))),
      shares.length > 0 && el("span", { className: "quiet rate" }, t("right for {share} of such photos so far", { share: percent(mean) })),
      el(
        "button",
        { type: "button", className: "primary", on: { click: accept } },
        el("span", {}, tn("Label {count} ticked photo", "Label {count} ticked photos", number)),
        keyCap("A"),
      ),
      el(
        "button",
        { type: "button", "aria-pressed": String(isChoosing), on: { click: startChoosing } },
        el("span", {}, isChoosing ? t("Type a number to untick: {typed}", { typed }) : t("Untick by number")),
        keyCap(","),
      ),
      el("button", { type: "button", on: { click: dismiss } }, el("span", {}, t("Not now")), keyCap("Esc")),
    ),
    el("div", { className: "tiles", css: { "--columns": String(columns) } }, found.ids.map((id, place) => tile(id, place + 1))),
  );
}
