// Dialog with the latest actions, to read and to undo.

import * as actions from "./actions.js";
import { get, RequestError } from "./api.js";
import { el } from "./dom.js";
import { showDialog } from "./help.js";
import { formatTime, t } from "./i18n.js";
import { toast } from "./toast.js";

export async function showHistory() {
  let rows;
  try {
    ({ actions: rows } = await get("/api/history"));
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    toast(error.message, { bad: true });
    return;
  }
  const list = el(
    "ol",
    { className: "history" },
    rows.map((row) =>
      el(
        "li",
        { className: row.undone ? "undone" : "" },
        el("time", { dateTime: row.at }, formatTime(localTime(row.at))),
        el("span", {}, row.description),
        row.undone && el("span", { className: "quiet" }, t("undone")),
      ),
    ),
  );
  const box = showDialog(
    t("Latest actions"),
    rows.length ? list : el("p", {}, t("Nothing has been done yet.")),
    el(
      "p",
      { className: "buttons" },
      el("button", { type: "button", on: { click: () => again(box, actions.undo) } }, t("Undo the latest")),
      el("button", { type: "button", on: { click: () => again(box, actions.redo) } }, t("Redo")),
    ),
  );
}

async function again(box, run) {
  await run();
  box.close();
  await showHistory();
}

// The catalog's times are in UTC.
function localTime(text) {
  const date = new Date(text);
  return new Date(date.getTime() - date.getTimezoneOffset() * 60_000).toISOString();
}
