"use strict";
// Cards of photos, galleries, and the viewer dialog.

const PAGE = 48; // cards that a gallery shows before "Show more"

const nameOf = (index) => (index >= 0 ? data.labels[index] : t("another label"));

const namesOf = (labels) => (labels.length ? labels.map(nameOf).join(" + ") : t("none of the labels"));

// data.photos: [path, true labels, [[label, probability], ...], predicted labels, probability]
const photos = data.photos.map(([path, truths, ranked, predicted, probability]) => {
  const missed = truths.filter((label) => !predicted.includes(label));
  const extra = predicted.filter((label) => !truths.includes(label));
  return {
    path, truths, ranked, predicted, probability, missed, extra,
    correct: !missed.length && !extra.length,
  };
});

// The pieces of a text, with the values in bold.
const rich = (text, values) => t(text).split(/(\{\w+\})/).filter(Boolean).map((piece) => {
  const name = /^\{(\w+)\}$/.exec(piece)?.[1];
  return name === undefined ? piece : element("strong", {}, values[name]);
});

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === undefined || value === null) continue;
    if (key === "class") made.className = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Links from a photo to its file and to the page where its label can be mended.
function photoLinks(path) {
  const links = [];
  if (data.photos_url) {
    const file = new URL(data.photos_url + path.split("/").map(encodeURIComponent).join("/"), location.href);
    links.push(element("a", { href: file.href, target: "_blank", rel: "noopener" }, t("Open the file")));
    const copy = element("button", { type: "button" }, t("Copy path"));
    const named = file.protocol === "file:" ? decodeURIComponent(file.pathname).replace(/^\/([A-Za-z]:)/, "$1") : path;
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(named);
        copy.textContent = t("Copied");
      } catch {
        copy.replaceWith(element("input", { readonly: true, value: named, "aria-label": t("Path") }));
      }
    });
    links.push(copy);
  }
  if (data.annotate_url) {
    links.push(element("a", { href: data.annotate_url + encodeURIComponent(path), target: "_blank", rel: "noopener", title: t("While finetune annotate is running") }, t("Open in annotate")));
  }
  return element("p", { class: "links" }, ...links);
}

const pictureOf = (path) => (data.thumbnails[path] ? `data:image/jpeg;base64,${data.thumbnails[path]}` : null);

function describe(photo) {
  return photo.correct
    ? t("Photo of {label}, correct", { label: namesOf(photo.truths) })
    : t("Photo of {label}, mistaken for {other}", { label: namesOf(photo.truths), other: namesOf(photo.predicted) });
}

function bar(share) {
  const fill = element("i");
  fill.style.width = `${Math.max(share * 100, 0.5)}%`;
  const made = element("span", { class: "bar", "aria-hidden": "true" });
  made.append(fill);
  return made;
}

function rankItems(photo) {
  const items = photo.ranked.map(([label, probability]) => {
    const truth = photo.truths.includes(label);
    const name = element("span", { class: "name", title: nameOf(label) }, (truth ? "✓ " : "") + nameOf(label));
    if (truth) name.append(element("span", { class: "hidden" }, t(" (correct label)")));
    const predicted = data.multi_label && photo.predicted.includes(label);
    const classes = [truth && "truth", predicted && "predicted"].filter(Boolean).join(" ");
    const share = element("span", { class: "share" }, percent(probability));
    if (predicted) share.append(element("span", { class: "hidden" }, t(" (predicted)")));
    return element("li", { class: classes }, name, share, bar(probability));
  });
  for (const truth of photo.truths) {
    if (photo.ranked.some(([label]) => label === truth)) continue;
    items.push(element("li", { class: "truth" },
      element("span", { class: "name", title: nameOf(truth) }, `✓ ${nameOf(truth)}`),
      element("span", { class: "share" }, t("less likely"))));
  }
  return items;
}

function verdict(photo) {
  const mark = element("span", { class: "mark" }, photo.correct ? "✓ " : "✗ ");
  if (data.multi_label) {
    const wrong = [
      ...(photo.missed.length ? [" ", ...rich("missed {label}", { label: namesOf(photo.missed) })] : []),
      ...(photo.missed.length && photo.extra.length ? [","] : []),
      ...(photo.extra.length ? [" ", ...rich("wrongly predicted {label}", { label: namesOf(photo.extra) })] : []),
    ];
    return [mark, ...(photo.correct ? [element("strong", {}, namesOf(photo.truths))] : wrong)];
  }
  const said = photo.correct ? [element("strong", {}, namesOf(photo.truths))]
    : rich("{label} mistaken for {other}", { label: namesOf(photo.truths), other: namesOf(photo.predicted) });
  return [mark, ...said, ` ${percent(photo.probability)}`];
}

function fillPicture(holder, path, alternative, overlay) {
  const source = (overlay && data.overlays[path]) || pictureOf(path);
  holder.replaceChildren(source
    ? element("img", { src: source, alt: alternative, decoding: "async" })
    : element("span", { class: "no-picture" }, t("No thumbnail in this file")));
}

function card(photo, { list, overlay = false, back = null } = {}) {
  const made = document.getElementById("card-template").content.firstElementChild.cloneNode(true);
  made.classList.add(photo.correct ? "is-right" : "is-wrong");
  const picture = made.querySelector(".picture");
  fillPicture(picture, photo.path, describe(photo), overlay);
  picture.setAttribute("aria-label", t("{photo}: enlarge", { photo: describe(photo) }));
  picture.addEventListener("click", () => viewer.one(list || [photo], photo, back));
  made.querySelector(".verdict").append(...verdict(photo));
  made.querySelector(".ranks").append(...rankItems(photo));
  made.querySelector(".file").append(photo.path);
  return made;
}

// Fills a gallery page by page; `makeCard` creates the element of an entry.
function fillGallery(holder, entries, makeCard, shown = PAGE) {
  holder.replaceChildren(...entries.slice(0, shown).map(makeCard));
  if (!entries.length) holder.append(element("p", { class: "none note" }, t("No photos here.")));
  if (entries.length > shown) {
    const rest = entries.length - shown;
    const button = element("button", { type: "button" }, t("Show {some} more of {rest}", { some: Math.min(PAGE, rest), rest: rest.toLocaleString("en") }));
    button.addEventListener("click", () => {
      const next = entries.slice(shown, shown + PAGE).map(makeCard);
      holder.lastElementChild.before(...next);
      next[0].querySelector("button")?.focus();
      shown += PAGE;
      if (shown >= entries.length) holder.lastElementChild.remove();
      else button.textContent = t("Show {some} more of {rest}", { some: Math.min(PAGE, entries.length - shown), rest: (entries.length - shown).toLocaleString("en") });
    });
    holder.append(element("p", { class: "more" }, button));
  }
}

const viewer = (() => {
  const dialog = document.getElementById("viewer");
  const title = document.getElementById("viewer-title");
  const body = dialog.querySelector(".viewer-body");
  let step = null; // action of the arrow keys

  const open = () => {
    if (!dialog.open) dialog.showModal();
    dialog.scrollTop = 0;
    // The focused element may have been removed with the old content.
    body.focus({ preventScroll: true });
  };

  function many(heading, list) {
    step = null;
    title.textContent = heading;
    const holder = element("div", { class: "gallery" });
    const back = () => many(heading, list);
    fillGallery(holder, list, (photo) => card(photo, { list, back }));
    body.replaceChildren(holder);
    open();
  }

  function picture(heading, path) {
    step = null;
    title.textContent = heading;
    const source = pictureOf(path);
    body.replaceChildren(element("figure", { class: "shown" },
      source ? element("img", { src: source, alt: heading }) : element("p", {}, t("No thumbnail in this file")),
      element("figcaption", {}, path)));
    open();
  }

  // `back` reopens the list from which the photo was opened, if any.
  function one(list, photo, back) {
    const place = list.indexOf(photo);
    title.textContent = describe(photo);
    const shown = element("figure", { class: "shown" });
    const source = pictureOf(photo.path);
    shown.append(source
      ? element("img", { src: source, alt: describe(photo) })
      : element("p", { class: "note" }, "No thumbnail in this file."));
    if (data.overlays[photo.path]) {
      shown.append(element("img", { src: data.overlays[photo.path], alt: "Grad-CAM overlay of the deciding regions" }),
        element("figcaption", {}, "Below: the regions that decided the prediction (Grad-CAM)"));
    }
    const move = (by) => { if (list[place + by]) one(list, list[place + by], back); };
    const previous = element("button", { type: "button", disabled: place <= 0 }, t("← Previous"));
    const next = element("button", { type: "button", disabled: place >= list.length - 1 }, t("Next →"));
    previous.addEventListener("click", () => move(-1));
    next.addEventListener("click", () => move(1));
    const steps = element("div", { class: "moves" }, previous, next);
    if (back) {
      const all = element("button", { type: "button" }, t("Show all"));
      all.addEventListener("click", back);
      steps.append(all);
    }
    const words = element("div", { class: photo.correct ? "is-right" : "is-wrong" },
      element("p", { class: "verdict" }, ...verdict(photo)),
      element("ol", { class: "ranks" }, ...rankItems(photo)),
      element("p", { class: "note" }, photo.path), photoLinks(photo.path), steps);
    body.replaceChildren(element("div", { class: "one" }, shown, words));
    step = move;
    open();
  }

  dialog.addEventListener("keydown", (event) => {
    if (!step) return;
    if (event.key === "ArrowLeft") step(-1);
    else if (event.key === "ArrowRight") step(1);
  });
  dialog.addEventListener("close", () => { step = null; });
  dialog.querySelector("[data-close]").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
  return { many, one, picture };
})();
