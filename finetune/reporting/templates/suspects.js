"use strict";
// The labels that are doubtful, where photos have one or several.

const suspects = document.querySelector('[data-gallery="suspects"]');
if (suspects) {
  const strong = (words) => element("strong", {}, words);
  fillGallery(suspects, data.suspects, ([path, label, suggested, probability]) => {
    const sentence = label === null ? ["not labeled ", strong(suggested), ", looks like it"]
      : suggested === null ? ["labeled ", strong(label), ", does not look like it"]
        : ["labeled ", strong(label), ", looks like ", strong(suggested)];
    const verdict = element("p", { class: "verdict" }, ...sentence);
    const words = verdict.textContent;
    verdict.append(` ${percent(probability)}`);
    const picture = element("div", { class: "picture" });
    fillPicture(picture, path, words[0].toUpperCase() + words.slice(1), false);
    const made = element("article", { class: "card is-wrong" }, picture, verdict, element("p", { class: "file" }, path));
    if (data.annotate_url) {
      made.lastElementChild.append(" ", element("a", { href: data.annotate_url + encodeURIComponent(path) }, "Annotate"));
    }
    return made;
  });
}
