// Side panel: the suggestion, and the labels with keys, counts and a search box.

import * as actions from "./actions.js";
import { commands } from "./commands.js";
import { keyCap, el, formatNumber, find, percent } from "./dom.js";
import { suggestionOf, isLabeled, photos } from "./photos.js";
import { queue } from "./queue.js";

// Letters without a command; labels after the ninth get them in this order.
const LETTERS = "qweryiopdhjbm".split("");

const REACTION_MS = 400;

const box = find("side");
let isFinderOpen = false;

export function keyOf(place) {
  return place < 9 ? String(place + 1) : (LETTERS[place - 9] ?? null);
}

export function labelOfKey(key) {
  if (/^[1-9]$/.test(key)) return photos.labels[Number(key) - 1] ?? null;
  const place = LETTERS.indexOf(key);
  return place < 0 ? null : (photos.labels[place + 9] ?? null);
}

const panel = el("div", { className: "suggestion", "aria-live": "off" });
const input = el("input", {
  type: "text",
  id: "finder",
  autocomplete: "off",
  spellcheck: false,
  placeholder: "Find or add a label",
  "aria-label": "Find or add a label",
  role: "combobox",
  "aria-expanded": "true",
  "aria-controls": "labels",
  maxLength: 200,
});
const list = el("ul", { id: "labels", className: "labels", "aria-label": "Labels" });
const none = el(
  "li",
  {},
  el(
    "button",
    { type: "button", className: "label none", on: { click: () => actions.label([]) } },
    keyCap("0"),
    el("span", { className: "text" }, "None of these"),
  ),
);
box.append(
  panel,
  el("div", { className: "finder" }, input, keyCap("/")),
  list,
  commands,
);

// Labels that contain the text, those that start with it first.
function matching(text) {
  const query = text.trim().normalize("NFC").toLocaleLowerCase();
  const found = photos.labels.map((label, place) => ({ label, place }));
  if (!query) return found;
  const rank = ({ label }) => label.toLocaleLowerCase().indexOf(query);
  return found.filter((item) => rank(item) >= 0).sort((a, b) => Math.sign(rank(a)) - Math.sign(rank(b)) || a.place - b.place);
}

export function openFinder(text = "") {
  isFinderOpen = true;
  input.value = text;
  input.focus();
  draw();
}

function closeFinder() {
  isFinderOpen = false;
  input.value = "";
  (queue.view === "grid" ? find("grid") : find("single")).focus({ preventScroll: true });
  draw();
}

input.addEventListener("focus", () => {
  isFinderOpen = true;
});
input.addEventListener("input", draw);
input.addEventListener("blur", () => {
  isFinderOpen = false;
  draw();
});
input.addEventListener("keydown", (event) => {
  event.stopPropagation();
  if (event.isComposing) return; // an input method is composing
  if (event.key === "Escape") {
    event.preventDefault();
    closeFinder();
  } else if (event.key === "Enter") {
    event.preventDefault();
    const name = input.value.trim().normalize("NFC");
    if (!name) return;
    const found = matching(name);
    const exact = found.find(({ label }) => label === name);
    const chosen = exact ?? (event.shiftKey ? null : found[0]);
    closeFinder();
    actions.label([chosen ? chosen.label : name]);
  }
});

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

function drawSuggestion() {
  const row = photos.get(queue.cursor);
  const many = queue.selected.size;
  const suggestion = row && suggestionOf(row);
  if (row) note(row, suggestion);
  panel.classList.toggle("idle", Boolean(row) && many < 2 && !isLabeled(row) && !suggestion);
  if (!row || row.problem) {
    panel.replaceChildren();
    return;
  }
  if (many > 1) {
    const suggested = queue.targets.filter((id) => suggestionOf(photos.get(id))).length;
    put(
      el("p", { className: "lead" }, `${formatNumber(many)} photos selected`),
      suggested
        ? el("button", { type: "button", className: "primary", on: { click: actions.accept } }, "Accept suggestions", keyCap("⏎"))
        : el("p", { className: "quiet" }, "The next label applies to all of them."),
    );
    return;
  }
  if (isLabeled(row)) {
    put(
      el("p", { className: "quiet" }, row.source === "folder" ? "Label from the folder" : "Labeled"),
      el(
        "p",
        { className: "assigned dotted", css: { "--hue": photos.hueOf(row.labels?.[0]) } },
        row.labels?.join(" + ") ?? "none of the labels",
      ),
      suggestion && !row.labels?.includes(suggestion.label) && suggestion.probability >= 0.5
        ? el("p", { className: "warning" }, `Looks like ${suggestion.label}, ${percent(suggestion.probability)}`)
        : null,
    );
    return;
  }
  if (!suggestion) {
    const text = photos.jobs.suggestions.state === "running" ? "Computing suggestions…" : "Not labeled yet";
    panel.replaceChildren(el("p", { className: "quiet" }, text));
    return;
  }
  panel.replaceChildren(
    el("p", { className: "quiet" }, LOOKS[row.status] ?? "Looks like"),
    el(
      "p",
      { className: "assigned dotted", css: { "--hue": photos.hueOf(suggestion.label) } },
      suggestion.label,
      el("span", { className: "share" }, percent(suggestion.probability)),
    ),
    el("button", { type: "button", className: "primary", on: { click: actions.accept } }, "Accept", keyCap("⏎")),
  );
}

// What the run says of its own prediction.
const LOOKS = {
  unsure: "Unsure; looks most like",
  unknown: "Unknown: unlike anything learned; nearest is",
};

export function draw() {
  drawSuggestion();
  const row = photos.get(queue.cursor);
  const { counts } = photos.counts();
  const probabilities = new Map(row?.problem ? [] : (row?.ranked ?? []));
  const found = matching(isFinderOpen ? input.value : "");
  const name = input.value.trim().normalize("NFC");
  const items = found.map(({ label, place }, order) => {
    const has = row?.labels?.includes(label) ?? false;
    const probability = probabilities.get(label);
    const key = keyOf(place);
    return el(
      "li",
      {},
      el(
        "button",
        {
          type: "button",
          className: `label${has ? " has" : ""}${isFinderOpen && name && order === 0 ? " first" : ""}`,
          "aria-pressed": String(has),
          css: { "--hue": photos.hueOf(label), "--share": String(probability ?? 0) },
          on: {
            pointerdown: (event) => event.preventDefault(), // keeps the search box focused until the click
            click: (event) => {
              if (isFinderOpen) closeFinder();
              if (event.shiftKey) actions.toggleLabel(label);
              else actions.label([label]);
            },
          },
        },
        key ? keyCap(key.toUpperCase()) : el("span", { className: "nokey" }),
        el("span", { className: "text dotted" }, label),
        probability !== undefined && el("span", { className: "share" }, percent(probability)),
        el("span", { className: "count" }, formatNumber(counts.get(label) ?? 0)),
      ),
    );
  });
  if (isFinderOpen && name && !photos.labels.includes(name)) {
    const create = el(
      "li",
      {},
      el(
        "button",
        {
          type: "button",
          className: `label create${found.length ? "" : " first"}`,
          on: {
            pointerdown: (event) => event.preventDefault(),
            click: () => {
              closeFinder();
              actions.label([name]);
            },
          },
        },
        keyCap(found.length ? "⇧⏎" : "⏎"),
        el("span", { className: "text" }, `New label “${name}”`),
      ),
    );
    items.push(create);
  }
  if (!items.length) items.push(el("li", { className: "quiet" }, "No labels yet. Type one and press Enter."));
  if (photos.labels.length && !name) items.push(none);
  list.replaceChildren(...items);
}

photos.addEventListener("change", draw);
queue.addEventListener("change", draw);
