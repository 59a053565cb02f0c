// Agreement of annotators: Cohen's kappa and confusion matrix of each pair.

import { get, RequestError } from "./api.js";
import { el } from "./dom.js";
import { showDialog } from "./help.js";
import { percent, t, tn } from "./i18n.js";
import { toast } from "./toast.js";

const WORDS = [[0.8, t("almost perfect")], [0.6, t("substantial")], [0.4, t("moderate")], [0.2, t("fair")], [-1, t("slight")]];

export async function showAgreement() {
  try {
    const { pairs } = await get("/api/agreement");
    showDialog(
      t("Agreement between annotators"),
      pairs.length
        ? pairs.map(pairOf)
        : el("p", {}, t("No photo has been labeled by two people yet. Each starts finetune annotate with --annotator NAME.")),
    );
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    toast(error.message, { bad: true });
  }
}

function pairOf(pair) {
  const [first, second] = pair.annotators;
  const kappa = pair.kappa === null ? "–" : pair.kappa.toFixed(2);
  const word = pair.kappa === null ? "" : ` (${WORDS.find(([least]) => pair.kappa >= least)[1]})`;
  return el(
    "section",
    { className: "pair-of" },
    el("h3", {}, t("{first} and {second}", { first, second })),
    el("p", {}, tn("Cohen’s kappa {kappa}: the same label for {share} of {count} photo.", "Cohen’s kappa {kappa}: the same label for {share} of {count} photos.", pair.photos, { kappa: `${kappa}${word}`, share: percent(pair.agreement) })),
    el(
      "div",
      { className: "scroll" },
      el(
        "table",
        {},
        el("caption", {}, t("Rows: {first}; columns: {second}", { first, second })),
        el("thead", {}, el("tr", {}, el("th", {}), pair.labels.map((label) => el("th", { scope: "col" }, label)))),
        el(
          "tbody",
          {},
          pair.confusion.map((counts, row) =>
            el(
              "tr",
              {},
              el("th", { scope: "row" }, pair.labels[row]),
              counts.map((count, column) =>
                el("td", { className: row === column ? "same" : count ? "differs" : "" }, String(count || "·")),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}
