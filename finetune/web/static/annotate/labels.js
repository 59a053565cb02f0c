// Side panel: labels with keys, counts and a search box.

import * as actions from "./actions.js";
import { commands } from "./commands.js";
import { keyCap, el, find } from "./dom.js";
import { formatNumber, t } from "./i18n.js";
import { panel } from "./panel.js";
import { photos } from "./photos.js";
import { queue } from "./queue.js";

const KEYED = 9; // labels with a key; 0 is "none of these"
const LIKELY = 3; // likely labels of a photo that move up where there are more labels than keys
const RECENT = 12;
const REACTION_MS = 400;

const box = find("side");
let isFinderOpen = false;
let recent = []; // labels in the order of their latest use
let listed = { id: null, labels: [], since: 0, before: [] };

// Labels in the order in which they are listed. With few labels each keeps its key; with more, pinned
// ones come first, then likely and recent ones.
function inOrder(row) {
  if (photos.labels.length <= KEYED) return photos.labels;
  const likely = row && !row.source ? (row.ranked ?? []).map(([label]) => label).filter(Boolean).slice(0, LIKELY) : [];
  const pinned = photos.labels.filter((label) => photos.styles[label]?.pinned);
  const first = [...pinned, ...likely, ...recent].filter((label) => photos.labels.includes(label));
  return [...new Set([...first, ...photos.labels])];
}

// Label of a key from 1 to 9. Where the list has just changed, keys mean what was shown before.
export function labelOfKey(key) {
  const isFresh = performance.now() - listed.since < REACTION_MS;
  return (isFresh ? listed.before : listed.labels)[Number(key) - 1] ?? null;
}

export function noteUse(labels) {
  recent = [...labels, ...recent.filter((label) => !labels.includes(label))].slice(0, RECENT);
}

const input = el("input", {
  type: "text",
  id: "finder",
  autocomplete: "off",
  spellcheck: false,
  placeholder: t("Find or add a label"),
  "aria-label": t("Find or add a label"),
  role: "combobox",
  "aria-expanded": "true",
  "aria-controls": "labels",
  maxLength: 200,
});
const list = el("ul", { id: "labels", className: "labels", "aria-label": t("Labels") });
const none = el(
  "li",
  {},
  el(
    "button",
    { type: "button", className: "label none", on: { click: () => actions.label([]) } },
    keyCap("0"),
    el("span", { className: "text" }, t("None of these")),
  ),
);
const manage = el(
  "button",
  { type: "button", className: "icon", "aria-label": t("Edit labels"), title: t("Edit labels (M)"), on: { click: () => dispatchEvent(new Event("edit-labels")) } },
  "✎",
);
box.append(
  panel,
  el("div", { className: "finder" }, input, keyCap("/"), manage),
  list,
  commands,
);

// Labels that contain the text, those that start with it first.
function matching(labels, text) {
  const query = text.trim().normalize("NFC").toLocaleLowerCase();
  if (!query) return labels;
  const rank = (label) => label.toLocaleLowerCase().indexOf(query);
  return labels
    .filter((label) => rank(label) >= 0)
    .sort((a, b) => Math.sign(rank(a)) - Math.sign(rank(b)) || labels.indexOf(a) - labels.indexOf(b));
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
  // Keys of an input method choose its candidates; 229 is the Enter that ends a composition.
  if (event.isComposing || event.keyCode === 229) return;
  if (event.key === "Escape") {
    event.preventDefault();
    closeFinder();
  } else if (event.key === "Enter") {
    event.preventDefault();
    const name = input.value.trim().normalize("NFC");
    if (!name) return;
    const found = matching(photos.labels, name);
    const exact = found.find((label) => label === name);
    const chosen = exact ?? (event.shiftKey ? null : found[0]);
    closeFinder();
    actions.label([chosen ?? name]);
  }
});

function labelButton(label, { row, key, counts, first }) {
  const has = row?.labels?.includes(label) ?? false;
  const probability = new Map(row?.problem ? [] : (row?.ranked ?? [])).get(label) ?? 0;
  return el(
    "button",
    {
      type: "button",
      className: `label${has ? " has" : ""}${first ? " first" : ""}`,
      "aria-pressed": String(has),
      title: label,
      css: { "--hue": photos.hueOf(label), "--share": String(probability) },
      on: {
        pointerdown: (event) => event.preventDefault(), // keeps the search box focused until the click
        click: (event) => {
          if (isFinderOpen) closeFinder();
          if (event.shiftKey) actions.toggleLabel(label);
          else actions.label([label]);
        },
      },
    },
    key ? keyCap(key) : el("span", { className: "nokey" }),
    el("span", { className: "text dotted" }, label),
    photos.styles[label]?.pinned && el("span", { className: "pin", "aria-label": t("pinned") }, "●"),
    el("span", { className: "count" }, formatNumber(counts.get(label) ?? 0)),
  );
}

function createButton(name, first) {
  return el(
    "button",
    {
      type: "button",
      className: `label create${first ? " first" : ""}`,
      on: {
        pointerdown: (event) => event.preventDefault(),
        click: () => {
          closeFinder();
          actions.label([name]);
        },
      },
    },
    keyCap(first ? "⏎" : "⇧⏎"),
    el("span", { className: "text" }, t("New label “{name}”", { name })),
  );
}

function note(row, labels) {
  const id = row?.id ?? null;
  if (listed.id !== id) listed = { id, labels, since: 0, before: labels };
  else if (labels.some((label, place) => label !== listed.labels[place])) {
    listed = { id, labels, since: performance.now(), before: listed.labels };
  }
}

export function draw() {
  const row = photos.get(queue.cursor);
  const { counts } = photos.counts();
  const order = inOrder(row);
  const keyed = order.slice(0, KEYED);
  note(row, keyed);
  const name = isFinderOpen ? input.value.trim().normalize("NFC") : "";
  const found = matching(order, name);
  const items = found.map((label, place) => {
    const key = keyed.indexOf(label) + 1;
    return labelButton(label, { row, key: key ? String(key) : null, counts, first: Boolean(name) && place === 0 });
  });
  if (name && !photos.labels.includes(name)) items.push(createButton(name, !found.length));
  const nodes = items.map((button) => el("li", {}, button));
  if (!nodes.length) nodes.push(el("li", { className: "quiet" }, t("No labels yet. Type one and press Enter.")));
  if (photos.labels.length && !name) nodes.splice(Math.min(KEYED, nodes.length), 0, none);
  list.replaceChildren(...nodes);
  manage.disabled = !photos.labels.length;
}

photos.addEventListener("change", draw);
queue.addEventListener("change", draw);
