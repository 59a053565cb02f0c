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
  const words = `Photo of ${truth}`;
  fillPicture(picture, path, words, false);
  picture.setAttribute("aria-label", `${words}: enlarge`);
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
