// Keyboard shortcuts: one table for the commands and for the help dialog.

import * as actions from "./actions.js";
import * as grid from "./grid.js";
import { find } from "./dom.js";
import { justChanged, labelOfKey, openFinder } from "./labels.js";
import { photos } from "./photos.js";
import { queue } from "./queue.js";
import * as single from "./single.js";
import { showHelp } from "./help.js";
import { toast } from "./toast.js";

const inGrid = () => queue.view === "grid";
const across = (by) => (event) => queue.step(by, { extend: event.shiftKey });
const down = (by) => (event) => queue.step(by * (inGrid() ? grid.columnsShown() : 1), { extend: event.shiftKey });
const page = (by) => (event) => queue.step(by * (inGrid() ? grid.columnsShown() * grid.rowsShown() : 10), { extend: event.shiftKey });
const end = (place) => (event) => queue.move(queue.list.at(place), { extend: event.shiftKey });

export const KEYS = [
  ["Label", [
    ["1 – 9", "set the label with that number and continue"],
    ["letter", "set the label with that letter; any other letter starts a search"],
    ["Shift 1 – 9", "add or remove a second label"],
    ["/", "find a label, or add a new one", () => openFinder(), ["/", "l"]],
    ["Enter", "accept the suggestion", acceptSuggestion, ["Enter"]],
    ["A", "accept it for all similar photos shown below", acceptCohort, ["a"]],
    [", .", "fewer or more similar photos", () => single.resizeCohort(0.5), [","]],
    ["0", "none of the labels", () => actions.label([]), ["0"]],
    ["⌫", "clear your label", actions.clear, ["Backspace", "Delete"]],
  ]],
  ["Move", [
    ["← →", "previous, next photo", null],
    ["↑ ↓", "row up, down", null],
    ["Page ↑ ↓", "a screen up, down", null],
    ["Home, End", "first, last photo", null],
    ["N", "next unlabeled photo", () => queue.advance(), ["n"]],
    ["V", "switch between grid and photo", () => queue.show({ view: inGrid() ? "single" : "grid" }), ["v"]],
    ["+ −", "larger, smaller thumbnails", null],
    ["S", "sort by similarity to this photo", actions.sortBySimilarity, ["s"]],
    ["R", "refresh the list", () => queue.rebuild(), ["r"]],
  ]],
  ["Select", [
    ["Space", "select or deselect this photo", () => queue.cursor && queue.toggle(queue.cursor), [" "]],
    ["Shift ← →", "select a range", null],
    ["G", "select its near-duplicates", actions.selectGroup, ["g"]],
    ["Ctrl A", "select all shown", null],
    ["T", "label near-duplicates together or one by one", toggleLabelGroups, ["t"]],
    ["Esc", "select none; label this near-duplicate alone", clearSelection, ["Escape"]],
  ]],
  ["Edit", [
    ["X", "reject: exclude from training; press again to restore", actions.reject, ["x"]],
    ["F", "flag or unflag", actions.flag, ["f"]],
    ["K", "keep this photo, reject its near-duplicates", actions.keep, ["k"]],
    ["C", "crop around the subject", single.enterCrop, ["c"]],
    ["U", "undo", actions.undo, ["u"]],
    ["Shift U", "redo", actions.redo, ["U"]],
    ["?", "show this list", () => showHelp(KEYS), ["?"]],
  ]],
  ["While cropping", [
    ["arrows", "move; with Shift in larger steps", null],
    ["+ −", "resize", null],
    ["C", "center", null],
    ["W", "full photo", null],
    ["⌫", "remove the crop", null],
    ["Enter, Esc", "save, cancel", null],
    ["Shift Enter", "save and crop the next photo", null],
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
  ".": () => single.resizeCohort(2),
  "+": () => grid.zoom(1),
  "=": () => grid.zoom(1),
  "-": () => grid.zoom(-1),
};

const COMMANDS = Object.fromEntries(
  KEYS.flatMap(([, rows]) => rows.flatMap(([, , run, keys]) => (keys ?? []).map((key) => [key, run]))),
);

function clearSelection() {
  if (queue.selected.size) queue.select([]);
  else if (queue.groupTargets.length) queue.excludeGroup();
}

function toggleLabelGroups() {
  queue.setLabelGroups(!queue.labelGroups);
  toast(queue.labelGroups ? "Near-duplicates are labeled together." : "Near-duplicates are labeled one by one.");
}

function acceptSuggestion() {
  if (justChanged() && queue.selected.size < 2) {
    toast("The suggestion has just changed. Check it, then press Enter.");
    return undefined;
  }
  return actions.accept();
}

function acceptCohort() {
  const found = single.cohortShown();
  if (inGrid() || !found || found.ids.length < 2) {
    const row = photos.get(queue.cursor);
    if (inGrid() && queue.selected.size > 1) return actions.accept();
    toast(row?.ranked ? "No similar photos are shown for this one." : "No suggestion yet.");
    return undefined;
  }
  return actions.acceptAll(found.label, found.ids);
}

function isTyping(target) {
  return target.matches("input, select, textarea") || target.closest("dialog") !== null;
}

function onKey(event) {
  if (event.defaultPrevented || event.isComposing || isTyping(event.target)) return;
  if (event.ctrlKey || event.metaKey) {
    const key = event.key.toLowerCase();
    if (key === "z") (event.shiftKey ? actions.redo : actions.undo)();
    else if (key === "y") actions.redo();
    else if (key === "a") queue.select(queue.list);
    else return;
    event.preventDefault();
    return;
  }
  if (event.altKey) return;
  if (single.cropping()) {
    if (single.cropKey(event)) event.preventDefault();
    return;
  }
  const onButton = event.target.matches("button, a, summary");
  if (onButton && (event.key === "Enter" || event.key === " ")) return;
  const run = commandOf(event);
  if (!run) return;
  event.preventDefault();
  run(event);
}

function commandOf(event) {
  const digit = /^Digit([1-9])$/.exec(event.code)?.[1];
  const choices = single.shownConflict();
  if (choices && digit && choices.choices[digit - 1] && !event.shiftKey) {
    return () => actions.resolve(choices, choices.choices[digit - 1]);
  }
  if (digit && event.shiftKey) {
    const name = labelOfKey(digit);
    return name && (() => actions.toggleLabel(name));
  }
  if (MOVES[event.key]) return MOVES[event.key];
  let key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "u" && event.shiftKey) key = "U";
  if (COMMANDS[key]) return COMMANDS[key];
  const name = labelOfKey(key);
  if (name) return () => actions.label([name]);
  if (/^[1-9]$/.test(key)) return () => toast(`There is no label ${key} yet. Press / and type its name.`);
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
