"use strict";
// Photos that only one of two runs predicts correctly.

function answer(run, predicted, probability, truth) {
  const right = predicted === truth;
  return element("li", { class: right ? "truth" : "" },
    element("span", { class: "name", title: predicted }, `${right ? "✓" : "✗"} ${predicted}`),
    element("span", { class: "share" }, percent(probability)), bar(probability),
    element("span", { class: "note" }, run));
}

function disagreementCard(names, [path, truth, first, firstProbability, second, secondProbability]) {
  const picture = element("button", { type: "button", class: "picture" });
  const words = t("Photo of {label}", { label: truth });
  fillPicture(picture, path, words, false);
  picture.setAttribute("aria-label", t("{photo}: enlarge", { photo: words }));
  picture.addEventListener("click", () => viewer.picture(words, path));
  return element("article", { class: "card" }, picture,
    element("p", { class: "verdict" }, element("strong", {}, truth)),
    element("ol", { class: "ranks" },
      answer(names[0], first, firstProbability, truth),
      answer(names[1], second, secondProbability, truth)),
    element("p", { class: "file" }, path));
}

for (const holder of document.querySelectorAll("[data-pair]")) {
  const pair = data.pairs[Number(holder.dataset.pair)];
  const rows = pair.sides[Number(holder.dataset.side)];
  fillGallery(holder, rows, (row) => disagreementCard(pair.names, row), 24);
}

// --- photos through all runs

function rankedAnswers(run, ranked, truth, correct) {
  const list = element("ol", { class: "ranks" });
  for (const [label, probability] of ranked) {
    const right = truth.includes(label);
    const name = element("span", { class: "name", title: label }, (right ? "✓ " : "") + label);
    list.append(element("li", { class: right ? "truth" : "" }, name,
      element("span", { class: "share" }, percent(probability)), bar(probability)));
  }
  const mark = element("span", { class: "mark", "aria-hidden": "true" }, correct ? "✓ " : "✗ ");
  return element("div", { class: correct ? "answer is-right" : "answer is-wrong" },
    element("p", { class: "run" }, mark, run, element("span", { class: "hidden" }, correct ? t(", correct") : t(", wrong"))), list);
}

const followed = document.getElementById("followed-photos");
if (followed) {
  fillGallery(followed, data.followed, ([path, truth, answers, correct]) => {
    const words = t("Photo of {label}", { label: truth.join(" + ") || t("none of the labels") });
    const picture = element("button", { type: "button", class: "picture" });
    fillPicture(picture, path, words, false);
    picture.setAttribute("aria-label", t("{photo}: enlarge", { photo: words }));
    picture.addEventListener("click", () => viewer.picture(words, path));
    return element("article", { class: "card" }, picture,
      element("p", { class: "verdict" }, element("strong", {}, truth.join(" + ") || t("none of the labels"))),
      element("div", { class: "answers" }, ...answers.map((ranked, k) => rankedAnswers(data.runs[k], ranked, truth, correct[k]))),
      element("p", { class: "file" }, path));
  }, 24);
}
