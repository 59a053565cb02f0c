// Card for a collection in which every photo is labeled: what to do next, with the commands.

import { el } from "./dom.js";
import { t, tn } from "./i18n.js";
import { photos } from "./photos.js";
import { toast } from "./toast.js";

function step(what, command) {
  const copy = async () => {
    await navigator.clipboard.writeText(command);
    toast(t("Copied."));
  };
  return el(
    "li",
    {},
    el("span", {}, what),
    el("code", {}, command),
    navigator.clipboard && el("button", { type: "button", on: { click: copy } }, t("Copy")),
  );
}

export function doneCard(total, { folder, run }) {
  const train = `finetune train ${folder}`;
  return el(
    "section",
    { className: "done", "aria-label": t("Well done") },
    el("h2", {}, t("Well done")),
    el("p", {}, tn("{count} photo is labeled.", "All {count} photos are labeled.", total)),
    el(
      "ol",
      {},
      step(t("Train on them now"), run ? `${train} --from ${run}` : train),
      step(t("Move them into folders named after their labels"), `finetune annotate ${folder} --apply`),
      step(t("Copy them elsewhere"), `finetune export-photos labeled-photos ${folder}`),
    ),
    photos.labels.length < 2 && el("p", { className: "quiet" }, t("A training needs two labels or more.")),
  );
}
