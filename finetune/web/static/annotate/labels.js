// The labels: their keys, how many photos each has, the suggestion, and the finder for new ones.

import * as actions from "./actions.js";
import { commands } from "./commands.js";
import { cap, el, figure, find, percent } from "./dom.js";
import { guessOf, isLabeled, photos } from "./photos.js";
import { queue } from "./queue.js";

// Letters that no command has, in the order in which labels after the ninth get them.
const LETTERS = "qweryiopdhjbm".split("");

const REACTION_MS = 400;

const box = find("side");
let finding = false;

export function keyOf(place) {
  return place < 9 ? String(place + 1) : (LETTERS[place - 9] ?? null);
}

export function labelOfKey(key) {
  if (/^[1-9]$/.test(key)) return photos.labels[Number(key) - 1] ?? null;
  const place = LETTERS.indexOf(key);
  return place < 0 ? null : (photos.labels[place + 9] ?? null);
}

const suggestion = el("div", { className: "suggestion", "aria-live": "off" });
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
    cap("0"),
    el("span", { className: "text" }, "None of these"),
  ),
);
box.append(
  suggestion,
  el("div", { className: "finder" }, input, cap("/")),
  list,
  commands,
);

// Labels that contain what was typed, those that begin with it first.
function matching(text) {
  const wanted = text.trim().normalize("NFC").toLocaleLowerCase();
  const found = photos.labels.map((label, place) => ({ label, place }));
  if (!wanted) return found;
  const rank = ({ label }) => label.toLocaleLowerCase().indexOf(wanted);
  return found.filter((item) => rank(item) >= 0).sort((a, b) => Math.sign(rank(a)) - Math.sign(rank(b)) || a.place - b.place);
}

export function openFinder(text = "") {
  finding = true;
  input.value = text;
  input.focus();
  draw();
}

function closeFinder() {
  finding = false;
  input.value = "";
  (queue.view === "grid" ? find("grid") : find("single")).focus({ preventScroll: true });
  draw();
}

input.addEventListener("focus", () => {
  finding = true;
});
input.addEventListener("input", draw);
input.addEventListener("blur", () => {
  finding = false;
  draw();
});
input.addEventListener("keydown", (event) => {
  event.stopPropagation();
  if (event.isComposing) return; // an input method is still choosing characters
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

// What was suggested for the photo at hand, and since when: see `justChanged`.
let suggested = { id: null, label: null, since: 0 };

function note(row, guess) {
  const label = guess?.label ?? null;
  if (suggested.id !== row.id) suggested = { id: row.id, label, since: 0 };
  else if (suggested.label !== label) suggested = { id: row.id, label, since: suggested.label ? performance.now() : 0 };
}

// Whether the suggestion turned into another one so lately that a key was meant for the former.
export const justChanged = () => performance.now() - suggested.since < REACTION_MS && suggested.since > 0;

const put = (...parts) => suggestion.replaceChildren(...parts.filter(Boolean));

function drawSuggestion() {
  const row = photos.get(queue.cursor);
  const many = queue.selected.size;
  const guess = row && guessOf(row);
  if (row) note(row, guess);
  suggestion.classList.toggle("idle", Boolean(row) && many < 2 && !isLabeled(row) && !guess);
  if (!row || row.problem) {
    suggestion.replaceChildren();
    return;
  }
  if (many > 1) {
    const guessed = queue.targets.filter((id) => guessOf(photos.get(id))).length;
    put(
      el("p", { className: "lead" }, `${figure(many)} photos selected`),
      guessed
        ? el("button", { type: "button", className: "primary", on: { click: actions.accept } }, "Accept their suggestions", cap("⏎"))
        : el("p", { className: "quiet" }, "A label key labels them all."),
    );
    return;
  }
  if (isLabeled(row)) {
    put(
      el("p", { className: "quiet" }, row.source === "folder" ? "Label of its folder" : "Labeled"),
      el(
        "p",
        { className: "answer dotted", css: { "--hue": photos.hueOf(row.labels?.[0]) } },
        row.labels?.join(" + ") ?? "none of the labels",
      ),
      guess && !row.labels?.includes(guess.label) && guess.share >= 0.5
        ? el("p", { className: "doubt" }, `Looks like ${guess.label}, ${percent(guess.share)}`)
        : null,
    );
    return;
  }
  if (!guess) {
    const text = photos.jobs.suggestions.state === "running" ? "Looking at the photos …" : "Not labeled yet";
    suggestion.replaceChildren(el("p", { className: "quiet" }, text));
    return;
  }
  suggestion.replaceChildren(
    el("p", { className: "quiet" }, "Looks like"),
    el(
      "p",
      { className: "answer dotted", css: { "--hue": photos.hueOf(guess.label) } },
      guess.label,
      el("span", { className: "share" }, percent(guess.share)),
    ),
    el("button", { type: "button", className: "primary", on: { click: actions.accept } }, "Accept", cap("⏎")),
  );
}

export function draw() {
  drawSuggestion();
  const row = photos.get(queue.cursor);
  const { counts } = photos.counts();
  const shares = new Map(row?.problem ? [] : (row?.ranked ?? []));
  const found = matching(finding ? input.value : "");
  const name = input.value.trim().normalize("NFC");
  const items = found.map(({ label, place }, order) => {
    const has = row?.labels?.includes(label) ?? false;
    const share = shares.get(label);
    const key = keyOf(place);
    return el(
      "li",
      {},
      el(
        "button",
        {
          type: "button",
          className: `label${has ? " has" : ""}${finding && name && order === 0 ? " first" : ""}`,
          "aria-pressed": String(has),
          css: { "--hue": photos.hueOf(label), "--share": String(share ?? 0) },
          on: {
            pointerdown: (event) => event.preventDefault(), // keeps the finder open until the click
            click: (event) => {
              if (finding) closeFinder();
              if (event.shiftKey) actions.toggleLabel(label);
              else actions.label([label]);
            },
          },
        },
        key ? cap(key.toUpperCase()) : el("span", { className: "nokey" }),
        el("span", { className: "text dotted" }, label),
        share !== undefined && el("span", { className: "share" }, percent(share)),
        el("span", { className: "count" }, figure(counts.get(label) ?? 0)),
      ),
    );
  });
  if (finding && name && !photos.labels.includes(name)) {
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
        cap(found.length ? "⇧⏎" : "⏎"),
        el("span", { className: "text" }, `New label “${name}”`),
      ),
    );
    items.push(create);
  }
  if (!items.length) items.push(el("li", { className: "quiet" }, "No labels yet: type one and press Enter."));
  if (photos.labels.length && !name) items.push(none);
  list.replaceChildren(...items);
}

photos.addEventListener("change", draw);
queue.addEventListener("change", draw);
