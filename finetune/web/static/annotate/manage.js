// Dialog in which labels are renamed, merged, deleted, ordered, pinned and colored.

import * as actions from "./actions.js";
import { el } from "./dom.js";
import { showDialog } from "./help.js";
import { formatNumber, t, tn } from "./i18n.js";
import { photos } from "./photos.js";

const HUES = [0, 28, 48, 90, 140, 175, 205, 230, 265, 300, 330];

let box = null;

export function showLabels() {
  if (box?.open) return;
  const rows = el("ul", { className: "managed" });
  const draw = () => rows.replaceChildren(...photos.labels.map((label, place) => rowOf(label, place)));
  box = showDialog(t("Labels"), el("p", { className: "quiet" }, t("Changes apply to all photos at once. U takes them back.")), rows);
  draw();
  photos.addEventListener("change", draw);
  box.addEventListener("close", () => photos.removeEventListener("change", draw));
}

addEventListener("edit-labels", showLabels);

const edit = (kind, fields) => actions.editLabel({ kind, ...fields });

function rename(label, input) {
  const to = input.value.trim().normalize("NFC");
  input.value = label;
  if (!to || to === label) return;
  if (photos.labels.includes(to) && !confirm(t("Merge “{label}” into “{to}”?", { label, to }))) return;
  edit("rename", { label, to });
}

function move(place, by) {
  const order = [...photos.labels];
  const [label] = order.splice(place, 1);
  order.splice(place + by, 0, label);
  edit("order", { order });
}

function remove(label, count) {
  const question = tn("Delete “{label}”? {count} photo loses it.", "Delete “{label}”? {count} photos lose it.", count, { label });
  if (count === 0 || confirm(question)) edit("delete", { label });
}

function rowOf(label, place) {
  const count = photos.counts().counts.get(label) ?? 0;
  const style = photos.styles[label] ?? {};
  const input = el("input", { type: "text", value: label, maxLength: 200, "aria-label": t("Name of {label}", { label }) });
  input.addEventListener("change", () => rename(label, input));
  const icon = (text, name, run, more = {}) =>
    el("button", { type: "button", className: "icon", "aria-label": name, title: name, on: { click: run }, ...more }, text);
  const color = el(
    "select",
    { className: "hue", "aria-label": t("Color of {label}", { label }), css: { "--hue": photos.hueOf(label) } },
    el("option", { value: "" }, t("Color by place")),
    HUES.map((hue) => el("option", { value: String(hue), css: { "--hue": String(hue) } }, `● ${hue}°`)),
  );
  color.value = HUES.includes(style.hue) ? String(style.hue) : "";
  color.addEventListener("change", () => edit("color", { label, hue: color.value === "" ? null : Number(color.value) }));
  return el(
    "li",
    { data: { label } },
    el("span", { className: "dotted", css: { "--hue": photos.hueOf(label) } }),
    input,
    el("span", { className: "count" }, formatNumber(count)),
    color,
    icon("●", t("Pin {label}: list it first, and keep it without photos", { label }), () => edit("pin", { label, pinned: !style.pinned }), { "aria-pressed": String(Boolean(style.pinned)) }),
    icon("↑", t("Move {label} up", { label }), () => move(place, -1), { disabled: place === 0 }),
    icon("↓", t("Move {label} down", { label }), () => move(place, 1), { disabled: place === photos.labels.length - 1 }),
    icon("✕", t("Delete {label}", { label }), () => remove(label, count)),
  );
}
