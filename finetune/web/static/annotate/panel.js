// Suggestion for the current photo, at the head of the side panel.

import * as actions from "./actions.js";
import { keyCap, el } from "./dom.js";
import { formatDuration, percent, t, tn } from "./i18n.js";
import { suggestionOf, isLabeled, labelText, nameOf, photos } from "./photos.js";
import { queue } from "./queue.js";

const REACTION_MS = 400;

export const panel = el("div", { className: "suggestion", "aria-live": "off" });

// Suggestion of the current photo, and when it last changed.
let suggested = { id: null, label: null, since: 0 };

function note(row, suggestion) {
  const label = suggestion?.label ?? null;
  if (suggested.id !== row.id) suggested = { id: row.id, label, since: 0 };
  else if (suggested.label !== label) suggested = { id: row.id, label, since: suggested.label ? performance.now() : 0 };
}

// Whether the suggestion changed so recently that a key may be meant for the one before.
export const justChanged = () => performance.now() - suggested.since < REACTION_MS && suggested.since > 0;

const put = (...parts) => panel.replaceChildren(...parts.filter(Boolean));
const button = (text, run, key = "⏎") =>
  el("button", { type: "button", className: "primary", on: { click: run } }, el("span", {}, text), keyCap(key));

function drawMany(many) {
  const targets = queue.targets;
  const open = targets.filter((id) => suggestionOf(photos.get(id))).length;
  put(
    el("p", { className: "lead" }, tn("{count} photo selected", "{count} photos selected", Math.max(many, targets.length))),
    open ? button(t("Accept suggestions"), actions.accept) : el("p", { className: "quiet" }, t("The next label applies to all of them.")),
  );
}

function drawLabeled(row, suggestion) {
  const differs = (row.disagreement ?? 0) >= 0.5 && !row.confirmed;
  put(
    el("p", { className: "quiet" }, row.source === "folder" ? t("Label from the folder") : row.confirmed ? t("Confirmed") : t("Labeled")),
    el("p", { className: "assigned dotted", css: { "--hue": photos.hueOf(row.labels?.[0]) } }, labelText(row)),
    differs && suggestion && !row.labels?.includes(suggestion.label) && el("p", { className: "warning" }, t("Looks like {label}", { label: nameOf(suggestion.label) })),
    differs && button(t("Right as it is"), actions.confirm),
  );
}

// What the run says of its own prediction, or what is known without one.
function lead(row) {
  if (row.status === "unsure") return t("Unsure; looks most like");
  if (row.status === "unknown") return t("Unknown: unlike anything learned; nearest is");
  if (row.unlike) return t("Unlike anything yet; nearest is");
  return t("Looks like");
}

export function draw() {
  const row = photos.get(queue.cursor);
  const many = queue.selected.size;
  const suggestion = row && suggestionOf(row);
  if (row) note(row, suggestion);
  panel.classList.toggle("idle", Boolean(row) && many < 2 && !isLabeled(row) && !suggestion);
  if (!row || row.problem) {
    panel.replaceChildren();
  } else if (many > 1) {
    drawMany(many);
  } else if (isLabeled(row)) {
    drawLabeled(row, suggestion);
  } else if (!suggestion) {
    const { state, secondsLeft } = photos.jobs.suggestions;
    const left = secondsLeft ? t("about {duration} left", { duration: formatDuration(secondsLeft) }) : "";
    put(el("p", { className: "quiet" }, state === "running" ? t("Looking for suggestions…") : t("Not labeled yet")), left && el("p", { className: "quiet" }, left));
  } else {
    put(
      el("p", { className: "quiet" }, lead(row)),
      el(
        "p",
        { className: "assigned dotted", css: { "--hue": photos.hueOf(suggestion.label) } },
        nameOf(suggestion.label),
        suggestion.share !== undefined && !row.unlike && el("span", { className: "share" }, percent(suggestion.share)),
      ),
      button(t("Accept"), actions.accept),
    );
  }
}

photos.addEventListener("change", draw);
queue.addEventListener("change", draw);
