// Every key, in one table: what the page does, and what the overlay shows, cannot differ.

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
    ["1 – 9", "give the label with that number, and go on"],
    ["letter", "give the label with that letter; a free letter starts typing"],
    ["Shift 1 – 9", "add the label beside others, or take it off"],
    ["/", "type to find a label; Enter gives it, or makes a new one", () => openFinder(), ["/", "l"]],
    ["Enter", "accept the suggestion", acceptSuggestion, ["Enter"]],
    ["A", "accept it for all look-alikes shown below", acceptCohort, ["a"]],
    [", .", "show half, twice as many look-alikes", () => single.resizeCohort(0.5), [","]],
    ["0", "none of the labels fits", () => actions.label([]), ["0"]],
    ["⌫", "take the label back", actions.clear, ["Backspace", "Delete"]],
  ]],
  ["Move", [
    ["← →", "previous, next photo", null],
    ["↑ ↓", "row up, down", null],
    ["Page ↑ ↓", "a screen up, down", null],
    ["Home, End", "first, last photo", null],
    ["N", "next photo without a decision", () => queue.advance(), ["n"]],
    ["V", "grid or one photo", () => queue.show({ view: inGrid() ? "single" : "grid" }), ["v"]],
    ["+ −", "larger, smaller cells", null],
    ["S", "sort by likeness to this photo", actions.sortBySimilarity, ["s"]],
    ["R", "make the list anew", () => queue.rebuild(), ["r"]],
  ]],
  ["Select", [
    ["Space", "select this photo, or not", () => queue.cursor && queue.toggle(queue.cursor), [" "]],
    ["Shift ← →", "select from here to there", null],
    ["G", "select its near-duplicates", actions.selectGroup, ["g"]],
    ["Ctrl A", "select all that are shown", null],
    ["T", "near-duplicates get a label together, or one by one", toggleTogether, ["t"]],
    ["Esc", "select nothing; leave near-duplicates out this time", selectNothing, ["Escape"]],
  ]],
  ["Decide", [
    ["X", "reject: leave out of the collection; again to take in", actions.reject, ["x"]],
    ["F", "flag, or not", actions.flag, ["f"]],
    ["K", "keep this one, reject its near-duplicates", actions.keep, ["k"]],
    ["C", "square around the subject", single.enterCrop, ["c"]],
    ["U", "undo, without limit", actions.undo, ["u"]],
    ["Shift U", "redo", actions.redo, ["U"]],
    ["?", "this list", () => showHelp(KEYS), ["?"]],
  ]],
  ["In the square", [
    ["arrows", "move it; with Shift in larger steps", null],
    ["+ −", "resize it", null],
    ["C", "center", null],
    ["W", "whole photo", null],
    ["⌫", "no square", null],
    ["Enter, Esc", "accept, cancel", null],
    ["Shift Enter", "accept, and on to the next photo’s square", null],
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

function selectNothing() {
  if (queue.selected.size) queue.select([]);
  else if (queue.company.length) queue.leaveAlone();
}

function toggleTogether() {
  queue.takeTogether(!queue.together);
  toast(queue.together ? "Near-duplicates get a label together." : "Each photo gets its own label.");
}

function acceptSuggestion() {
  if (justChanged() && queue.selected.size < 2) {
    toast("The suggestion has just changed: look again.");
    return undefined;
  }
  return actions.accept();
}

function acceptCohort() {
  const found = single.cohortShown();
  if (inGrid() || !found || found.ids.length < 2) {
    const row = photos.get(queue.cursor);
    if (inGrid() && queue.selected.size > 1) return actions.accept();
    toast(row?.ranked ? "No look-alikes are shown for this photo." : "There is no suggestion yet.");
    return undefined;
  }
  return actions.acceptThese(found.label, found.ids);
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
  const choices = single.choicesShown();
  if (choices && digit && choices.choices[digit - 1] && !event.shiftKey) {
    return () => actions.settle(choices, choices.choices[digit - 1]);
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
  if (/^[1-9]$/.test(key)) return () => toast(`There is no label ${key} yet. Type / and its name.`);
  if (/^\p{L}$/u.test(event.key)) return () => openFinder(event.key);
  return null;
}

export function listen() {
  document.addEventListener("keydown", onKey);
  // A click must not leave the next Enter to the button that was clicked.
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
