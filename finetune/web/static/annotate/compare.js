// Frames of a burst side by side, with one zoom for all, to keep the best.

import * as actions from "./actions.js";
import { imageOf } from "./api.js";
import { el, keyCap } from "./dom.js";
import { describe } from "./grid.js";
import { t } from "./i18n.js";
import { fileName, labelText, photos } from "./photos.js";
import { queue } from "./queue.js";
import { toast } from "./toast.js";
import { mount } from "./zoom.js";

const MOST = 4;

let group = []; // all frames
let first = 0; // the first of those shown
let at = 0; // the one that keys apply to

export const comparing = () => group.length > 0;
const shownIds = () => group.slice(first, first + MOST);
const focused = () => group[at];

export function start(row) {
  const ids = photos.group(row?.group);
  if (ids.length < 2) {
    toast(t("This photo has no near-duplicates."));
    return false;
  }
  group = ids;
  move(ids.indexOf(row.id));
  return true;
}

export function stop() {
  group = [];
}

function move(place) {
  at = Math.min(Math.max(place, 0), group.length - 1);
  if (at < first || at >= first + MOST) first = Math.floor(at / MOST) * MOST;
}

// Handles a key; returns whether it was used.
export function key(event, redraw) {
  const moves = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -2, ArrowDown: 2 };
  if (moves[event.key]) {
    move(at + moves[event.key]);
    redraw();
  } else if (event.key.toLowerCase() === "k") {
    actions.keep(focused(), group);
  } else if (event.key.toLowerCase() === "x") {
    actions.reject([focused()]);
  } else if (event.key === "Escape" || event.key.toLowerCase() === "b") {
    const id = focused();
    stop();
    if (queue.placeOf(id) >= 0) queue.move(id);
    else redraw();
  } else {
    return false;
  }
  return true;
}

function frameOf(id, most, redraw) {
  const row = photos.get(id);
  const picture = el("img", { className: "photo", src: imageOf(id, "view"), alt: describe(row), draggable: false });
  const holder = el("div", { className: "holder" }, picture);
  const [width, height] = [row.width ?? 3, row.height ?? 2];
  holder.style.setProperty("--ratio", `${width} / ${height}`);
  holder.style.setProperty("--wide", String(width / height));
  const frame = el("div", { className: "frame" }, holder);
  const share = most ? (row.sharpness ?? 0) / most : 0;
  mount(frame, holder, row);
  return el(
    "figure",
    {
      className: `compared${id === focused() ? " current" : ""}${row.rejected ? " out" : ""}`,
      "aria-current": id === focused() ? "true" : null,
      on: { pointerdown: () => { if (id !== focused()) { move(group.indexOf(id)); redraw(); } } },
    },
    frame,
    el(
      "figcaption",
      {},
      el("span", { className: "file" }, fileName(row)),
      el("meter", { min: 0, max: 1, value: share, "aria-label": t("Sharpness"), title: t("Sharpness, compared with the sharpest of them") }),
      el("span", { className: "quiet" }, row.rejected ? t("rejected") : labelText(row)),
    ),
  );
}

export function view(redraw) {
  const most = Math.max(...group.map((id) => photos.get(id)?.sharpness ?? 0));
  const tool = (text, cap, run) => el("button", { type: "button", on: { click: run } }, el("span", {}, text), keyCap(cap));
  return [
    el("div", { className: "compare", data: { frames: String(shownIds().length) }, role: "group", "aria-label": t("Frames of the group") }, shownIds().map((id) => frameOf(id, most, redraw))),
    el(
      "div",
      { className: "strips strip-head" },
      el("span", {}, t("{first} to {last} of {all}", { first: first + 1, last: first + shownIds().length, all: group.length })),
      tool(t("Keep, reject the others"), "K", () => actions.keep(focused(), group)),
      tool(t("Reject"), "X", () => actions.reject([focused()])),
      tool(t("Done"), "B", () => { stop(); redraw(); }),
    ),
  ];
}
