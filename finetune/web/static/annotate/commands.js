// Toolbar with a button for each common key, for mouse and touch.

import * as actions from "./actions.js";
import { keyCap, el } from "./dom.js";
import { photos } from "./photos.js";
import { queue } from "./queue.js";
import { enterCrop } from "./single.js";

const COMMANDS = [
  ["Previous", "←", () => queue.step(-1)],
  ["Next", "→", () => queue.step(1)],
  ["Flag", "F", actions.flag, (row) => row.flag],
  ["Reject", "X", actions.reject, (row) => row.rejected],
  ["Crop", "C", enterCrop],
  ["Clear label", "⌫", actions.clear],
  ["Group", "G", actions.selectGroup],
  ["Similar", "S", actions.sortBySimilarity],
];

export const commands = el("div", { className: "commands", role: "toolbar", "aria-label": "Actions" });

const buttons = COMMANDS.map(([text, key, run, isPressed]) => {
  const button = el("button", { type: "button", on: { click: run } }, el("span", {}, text), keyCap(key));
  return { button, isPressed };
});
commands.append(...buttons.map(({ button }) => button));

export function draw() {
  const row = photos.get(queue.cursor);
  for (const { button, isPressed } of buttons) {
    button.disabled = !row;
    if (isPressed) button.setAttribute("aria-pressed", String(Boolean(row && isPressed(row))));
  }
}

photos.addEventListener("change", draw);
queue.addEventListener("change", draw);
