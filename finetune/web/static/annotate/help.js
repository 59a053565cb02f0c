// Dialogs, and the list of keyboard shortcuts.

import { keyCap, el } from "./dom.js";
import { t } from "./i18n.js";

let dialog = null;

export function showDialog(title, ...content) {
  const close = el("button", { type: "button", className: "icon", "aria-label": t("Close"), on: { click: () => box.close() } }, "✕");
  const box = el(
    "dialog",
    { "aria-label": title },
    el("div", { className: "dialog-head" }, el("h2", {}, title), close),
    ...content,
  );
  box.addEventListener("click", (event) => {
    if (event.target === box) box.close();
  });
  // Also where the focused control has just been replaced.
  const escape = (event) => {
    if (event.key !== "Escape" || document.querySelector("dialog:last-of-type") !== box) return;
    event.preventDefault();
    event.stopPropagation();
    box.close();
  };
  document.addEventListener("keydown", escape, true);
  box.addEventListener("close", () => {
    document.removeEventListener("keydown", escape, true);
    box.remove();
  });
  document.body.append(box);
  box.showModal();
  return box;
}

export function showHelp(table) {
  if (dialog?.open) return;
  dialog = showDialog(
    t("Keyboard shortcuts"),
    el(
      "div",
      { className: "keys" },
      table.map(([title, rows]) =>
        el(
          "section",
          {},
          el("h3", {}, title),
          el("dl", {}, rows.map(([keys, what]) => [el("dt", {}, keyCap(keys)), el("dd", {}, what)])),
        ),
      ),
    ),
  );
  dialog.addEventListener("keydown", (event) => {
    if (event.key === "?") {
      event.preventDefault();
      dialog.close();
    }
  });
}
