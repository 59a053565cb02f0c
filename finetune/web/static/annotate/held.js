// A line about keys that are held: after a refusal, or pressed before their photo appeared.

import { el, find, keyCap } from "./dom.js";
import { t, tn } from "./i18n.js";
import { outbox } from "./outbox.js";
import { queue } from "./queue.js";
import { sight } from "./sight.js";
import { toast } from "./toast.js";

const box = find("held");

const dropped = (count) => toast(tn("{count} key was dropped.", "{count} keys were dropped.", count));

function goOn() {
  if (outbox.heldCount) outbox.goOn();
  else sight.take()?.();
}

function drop() {
  const count = outbox.heldCount;
  if (!count) {
    dropped(sight.drop());
    return;
  }
  const place = (id) => queue.placeOf(id);
  const [first] = outbox.drop().filter((id) => place(id) >= 0).sort((a, b) => place(a) - place(b));
  if (first) queue.move(first);
  dropped(count);
}

// Handles a key; returns whether it was used.
export function key(event) {
  if (box.hidden || box.contains(event.target) || !["Enter", "Escape"].includes(event.key)) return false;
  if (event.key === "Enter") goOn();
  else drop();
  return true;
}

function draw() {
  const held = outbox.heldCount;
  const early = sight.earlyCount;
  box.hidden = !held && !early;
  if (box.hidden) return;
  const kept = tn("{count} key is held.", "{count} keys are held.", held);
  const before = tn("{count} key was pressed before this photo appeared.", "{count} keys were pressed before this photo appeared.", early);
  const text = held ? `${outbox.refusal.message} ${kept}` : before;
  const button = (name, cap, run) => el("button", { type: "button", on: { click: run } }, el("span", {}, name), keyCap(cap));
  box.replaceChildren(
    el("p", {}, text),
    button(held ? t("Go on") : t("Use it for this photo"), "⏎", goOn),
    button(t("Drop"), "Esc", drop),
  );
}

outbox.addEventListener("change", draw);
sight.addEventListener("change", draw);
addEventListener("beforeunload", (event) => {
  if (!outbox.isEmpty) event.preventDefault();
});
