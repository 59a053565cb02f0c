// What keys do besides labels, as buttons: for the mouse, for a finger, and to be found at all.

import * as actions from "./actions.js";
import { cap, el } from "./dom.js";
import { photos } from "./photos.js";
import { queue } from "./queue.js";
import { enterCrop } from "./single.js";

const COMMANDS = [
  ["Previous", "←", () => queue.step(-1)],
  ["Next", "→", () => queue.step(1)],
  ["Flag", "F", actions.flag, (row) => row.flag],
  ["Reject", "X", actions.reject, (row) => row.rejected],
  ["Square", "C", enterCrop],
  ["No label", "⌫", actions.clear],
  ["Group", "G", actions.selectGroup],
  ["Similar", "S", actions.sortBySimilarity],
];

export const commands = el("div", { className: "commands", role: "toolbar", "aria-label": "Photo" });

const buttons = COMMANDS.map(([text, key, run, isOn]) => {
  const button = el("button", { type: "button", on: { click: run } }, el("span", {}, text), cap(key));
  return { button, isOn };
});
commands.append(...buttons.map(({ button }) => button));

export function draw() {
  const row = photos.get(queue.cursor);
  for (const { button, isOn } of buttons) {
    button.disabled = !row;
    if (isOn) button.setAttribute("aria-pressed", String(Boolean(row && isOn(row))));
  }
}

photos.addEventListener("change", draw);
queue.addEventListener("change", draw);
