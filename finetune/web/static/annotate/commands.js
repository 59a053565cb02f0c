// Toolbar with a button for each common key, for mouse and touch.

import * as actions from "./actions.js";
import { keyCap, el } from "./dom.js";
import { t } from "./i18n.js";
import { photos } from "./photos.js";
import { queue } from "./queue.js";
import { enterCrop, toggleZoom } from "./single.js";

const COMMANDS = [
  [t("Previous"), "←", () => queue.step(-1)],
  [t("Next"), "→", () => queue.step(1)],
  [t("Zoom"), "Z", toggleZoom],
  [t("Flag"), "F", actions.flag, (row) => row.flag],
  [t("Reject"), "X", () => actions.reject(), (row) => row.rejected],
  [t("Crop"), "C", enterCrop],
  [t("Clear label"), "⌫", actions.clear],
  [t("Similar"), "S", actions.sortBySimilarity],
];

export const commands = el("div", { className: "commands", role: "toolbar", "aria-label": t("Actions") });

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
