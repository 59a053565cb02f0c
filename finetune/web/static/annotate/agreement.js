// Agreement of annotators: Cohen's kappa and confusion matrix of each pair.

import { get, RequestError } from "./api.js";
import { el, percent } from "./dom.js";
import { showDialog } from "./help.js";
import { toast } from "./toast.js";

const WORDS = [[0.8, "almost perfect"], [0.6, "substantial"], [0.4, "moderate"], [0.2, "fair"], [-1, "slight"]];

export async function showAgreement() {
  try {
    const { pairs } = await get("/api/agreement");
    showDialog(
      "Agreement between annotators",
      pairs.length
        ? pairs.map(pairOf)
        : el("p", {}, "No photo has been labeled by two people yet. Each starts finetune annotate with --annotator NAME."),
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
    el("h3", {}, `${first} and ${second}`),
    el("p", {}, `Cohen’s kappa ${kappa}${word}: the same label for ${percent(pair.agreement)} of ${pair.photos} photos.`),
    el(
      "div",
      { className: "scroll" },
      el(
        "table",
        {},
        el("caption", {}, `Rows: ${first}; columns: ${second}`),
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
