// Keyboard shortcuts: one table for the commands and for the help dialog.

import * as actions from "./actions.js";
import * as cohort from "./cohort.js";
import * as compare from "./compare.js";
import * as grid from "./grid.js";
import { find } from "./dom.js";
import * as held from "./held.js";
import { showHistory } from "./history.js";
import { t } from "./i18n.js";
import { showInfo } from "./info.js";
import { labelOfKey, openFinder } from "./labels.js";
import { showLabels } from "./manage.js";
import { showMap } from "./map.js";
import { justChanged } from "./panel.js";
import { queue } from "./queue.js";
import * as single from "./single.js";
import { showHelp } from "./help.js";
import { toast } from "./toast.js";
import { panBy, zoomed } from "./zoom.js";

const inGrid = () => queue.view === "grid";
const across = (by) => (event) => queue.step(by, { extend: event.shiftKey });
const down = (by) => (event) => queue.step(by * (inGrid() ? grid.columnsShown() : 1), { extend: event.shiftKey });
const page = (by) => (event) => queue.step(by * (inGrid() ? grid.columnsShown() * grid.rowsShown() : 10), { extend: event.shiftKey });
const end = (place) => (event) => queue.move(queue.list.at(place), { extend: event.shiftKey });

export const KEYS = [
  [t("Label"), [
    ["1 – 9", t("set the label with that number and continue"), null],
    ["/", t("find a label, or add a new one; so does any letter without a command"), () => openFinder(), ["/", "l"]],
    ["Enter", t("accept the suggestion; confirm a doubted label"), () => actions.acceptOrConfirm(justChanged), ["Enter"]],
    ["A", t("label all ticked photos below the photo"), acceptCohort, ["a"]],
    [",", t("untick some of them by their numbers"), cohort.startChoosing, [","]],
    ["0", t("none of the labels"), () => actions.label([]), ["0"]],
    ["Shift 1 – 9", t("add or remove a second label"), null],
    ["⌫", t("clear your label"), actions.clear, ["Backspace", "Delete"]],
    ["M", t("rename, merge, order, color and delete labels"), showLabels, ["m"]],
  ]],
  [t("Move"), [
    ["← →", t("previous, next photo"), null],
    ["↑ ↓", t("row up, down"), null],
    ["Page ↑ ↓", t("a screen up, down"), null],
    ["Home, End", t("first, last photo"), null],
    ["N", t("next unlabeled photo"), () => queue.advance(), ["n"]],
    ["V", t("switch between grid and photo"), () => queue.show({ view: inGrid() ? "single" : "grid" }), ["v"]],
    ["+ −", t("larger, smaller thumbnails"), null],
    ["S", t("sort by similarity to this photo"), actions.sortBySimilarity, ["s"]],
    ["R", t("refresh the list"), () => queue.rebuild(), ["r"]],
    ["Ctrl F", t("search names, dates, cameras and labels"), null],
    ["P", t("map of the photos"), showMap, ["p"]],
  ]],
  [t("Look"), [
    ["Z", t("zoom to the pixels of the original, and back; arrows with Alt move"), single.toggleZoom, ["z"]],
    ["B", t("compare the frames of a burst; K keeps, X rejects one"), single.startCompare, ["b"]],
    ["I", t("camera, lens, exposure, time and place"), showInfo, ["i"]],
  ]],
  [t("Select"), [
    ["Space", t("select or deselect this photo"), () => queue.cursor && queue.toggle(queue.cursor), [" "]],
    ["Shift ← →", t("select a range"), null],
    ["G", t("select its near-duplicates"), actions.selectGroup, ["g"]],
    ["Ctrl A", t("select all shown"), null],
    ["T", t("near-duplicates together, or one by one"), toggleLabelGroups, ["t"]],
    ["J", t("put the selected photos into one group"), actions.together, ["j"]],
    ["Shift J", t("take this photo out of its group"), actions.apart, ["J"]],
    ["Esc", t("select none; label this near-duplicate alone"), clearSelection, ["Escape"]],
  ]],
  [t("Edit"), [
    ["X", t("reject: exclude from training; press again to restore"), () => actions.reject(), ["x"]],
    ["F", t("flag or unflag"), actions.flag, ["f"]],
    ["[ ]", t("fewer, more stars"), () => actions.stars(-1), ["["]],
    ["K", t("keep this photo, reject its near-duplicates"), () => actions.keep(), ["k"]],
    ["C", t("crop around the subject"), single.enterCrop, ["c"]],
    ["U", t("undo"), actions.undo, ["u"]],
    ["Shift U", t("redo"), actions.redo, ["U"]],
    ["H", t("list the latest actions"), showHistory, ["h"]],
    ["?", t("show this list"), () => showHelp(KEYS), ["?"]],
  ]],
  [t("While cropping"), [
    [t("arrows"), t("move; with Shift in larger steps"), null],
    ["+ −", t("resize"), null],
    ["C", t("center"), null],
    ["W", t("full photo"), null],
    ["⌫", t("remove the crop"), null],
    ["Enter, Esc", t("save, cancel"), null],
    ["Shift Enter", t("save and crop the next photo"), null],
  ]],
];

const MOVES = {
  ArrowLeft: across(-1),
  ArrowRight: across(1),
  ArrowUp: down(-1),
  ArrowDown: down(1),
  PageUp: page(-1),
  PageDown: page(1),
  Home: end(0),
  End: end(-1),
  "]": () => actions.stars(1),
  "+": () => grid.zoom(1),
  "=": () => grid.zoom(1),
  "-": () => grid.zoom(-1),
};

const PANS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const COMMANDS = Object.fromEntries(
  KEYS.flatMap(([, rows]) => rows.flatMap(([, , run, keys]) => (keys ?? []).map((key) => [key, run]))),
);

function clearSelection() {
  if (queue.isPart) queue.show({ filter: queue.filter });
  else if (queue.selected.size) queue.select([]);
  else if (queue.groupTargets.length) queue.excludeGroup();
  else cohort.dismiss();
}

function toggleLabelGroups() {
  queue.setLabelGroups(!queue.labelGroups);
  toast(queue.labelGroups ? t("Near-duplicates are labeled together.") : t("Near-duplicates are labeled one by one."));
}

function acceptCohort() {
  return inGrid() && queue.selected.size > 1 ? actions.accept() : cohort.accept();
}

function isTyping(target) {
  return target.matches("input, select, textarea") || target.closest("dialog") !== null;
}

function onKey(event) {
  // 229: a key that an input method takes.
  if (event.defaultPrevented || event.isComposing || event.keyCode === 229 || isTyping(event.target)) return;
  if (held.key(event)) {
    event.preventDefault();
    return;
  }
  if (event.ctrlKey || event.metaKey) {
    const key = event.key.toLowerCase();
    if (key === "z") (event.shiftKey ? actions.redo : actions.undo)();
    else if (key === "y") actions.redo();
    else if (key === "a") queue.select(queue.list);
    else if (key === "f") find("search").focus();
    else return;
    event.preventDefault();
    return;
  }
  if (event.altKey) {
    if (!zoomed() || !PANS[event.key]) return;
    event.preventDefault();
    panBy(...PANS[event.key]);
    return;
  }
  if (single.cropping()) {
    if (single.cropKey(event)) event.preventDefault();
    return;
  }
  if (compare.comparing() && compare.key(event, single.draw)) {
    event.preventDefault();
    return;
  }
  const onButton = event.target.matches("button, a, summary");
  if (onButton && (event.key === "Enter" || event.key === " ")) return;
  const run = commandOf(event);
  if (!run) return;
  event.preventDefault();
  // A key that is held down moves on, but decides once.
  if (!event.repeat || MOVES[event.key]) run(event);
}

function commandOf(event) {
  const digit = /^Digit([0-9])$/.exec(event.code)?.[1] ?? (/^[0-9]$/.test(event.key) ? event.key : undefined);
  if (digit && !event.shiftKey && cohort.choosing()) return () => cohort.digit(digit);
  const choices = single.shownConflict();
  if (choices && digit && choices.choices[digit - 1] && !event.shiftKey) {
    return () => actions.resolve(choices, choices.choices[digit - 1]);
  }
  if (digit > 0 && event.shiftKey) {
    const name = labelOfKey(digit);
    return name && (() => actions.toggleLabel(name));
  }
  if (MOVES[event.key]) return MOVES[event.key];
  let key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if ("uj".includes(key) && event.shiftKey) key = key.toUpperCase();
  if (COMMANDS[key]) return COMMANDS[key];
  if (/^[1-9]$/.test(key)) {
    const name = labelOfKey(key);
    if (name) return () => actions.label([name]);
    return () => toast(t("There is no label {key} yet. Press / and type its name.", { key }));
  }
  if (/^\p{L}$/u.test(event.key)) return () => openFinder(event.key);
  return null;
}

export function listenToKeys() {
  document.addEventListener("keydown", onKey);
  // Otherwise the next Enter would press the clicked button again.
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (event.detail > 0 && button && !button.closest("dialog") && !single.cropping()) {
      if (document.activeElement === button) focusStage();
    }
  });
}

export function focusStage() {
  find(inGrid() ? "grid" : "single").focus({ preventScroll: true });
}
