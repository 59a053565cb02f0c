"use strict";
// Galleries, confusion matrix and table of labels of a report.

// --- galleries

const galleryOf = (name) => document.querySelector(`[data-gallery="${name}"]`);
const members = Object.fromEntries(
  Object.entries(data.galleries).map(([name, places]) => [name, places.map((k) => photos[k])]));

for (const [name, first] of [["most_confident", 96], ["least_confident", PAGE]]) {
  const list = members[name];
  fillGallery(galleryOf(name), list, (photo) => card(photo, { list }), first);
}

const mistakes = galleryOf("mistakes");
if (mistakes) {
  const filter = document.querySelector('[data-filter="mistakes"]');
  const overlays = document.getElementById("overlays");
  filter.append(element("option", { value: "" }, t("all labels ({count})", { count: members.mistakes.length })));
  for (const [kind, words] of [["missed", t("missed")], ["extra", t("wrongly predicted")]]) {
    const counts = new Map();
    for (const photo of members.mistakes) {
      for (const label of photo[kind]) counts.set(label, (counts.get(label) || 0) + 1);
    }
    const group = element("optgroup", { label: words });
    for (const [label, count] of [...counts].sort((a, b) => a[0] - b[0])) {
      group.append(element("option", { value: `${kind} ${label}` }, `${nameOf(label)} ${words} (${count})`));
    }
    if (counts.size) filter.append(group);
  }
  const show = () => {
    const [kind, label] = filter.value.split(" ");
    const list = members.mistakes.filter((photo) => !kind || photo[kind].includes(Number(label)));
    fillGallery(mistakes, list, (photo) => card(photo, { list, overlay: overlays?.checked }));
  };
  filter.addEventListener("change", show);
  overlays?.addEventListener("change", show);
  show();
}

function showConfusion(matrix) {
  // --- photos of a cell of the confusion matrix

  const cells = new Map();
  for (const photo of photos) {
    const key = `${photo.truths} ${photo.predicted}`;
    if (!cells.has(key)) cells.set(key, []);
    cells.get(key).push(photo);
  }
  for (const list of cells.values()) list.sort((a, b) => b.probability - a.probability);

  function openCell(truth, predicted, count) {
    const list = cells.get(`${truth} ${predicted}`) || [];
    const available = list.length < count ? t(", {count} of them in this file", { count: list.length.toLocaleString("en") }) : "";
    const heading = truth === predicted
      ? `${t("{label}, correct: {photos}", { label: nameOf(truth), photos: countPhotos(count) })}${available}`
      : `${t("{label} mistaken for {other}: {photos}", { label: nameOf(truth), other: nameOf(predicted), photos: countPhotos(count) })}${available}`;
    viewer.many(heading, list);
  }

  // --- confusion matrix

  const frame = document.getElementById("matrix");
  const order = document.getElementById("matrix-order");
  const values = document.getElementById("matrix-values");

  const NARROW = 12; // labels shown where there is little room

  const svg = (name, attributes, ...children) => {
    const made = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    made.append(...children);
    return made;
  };
  const ruler = document.createElement("canvas").getContext("2d");

  function drawMatrix() {
    const room = frame.parentElement.clientWidth - 24;
    const narrow = room < 560;
    let places = matrix.orders[order.value];
    const cut = narrow && places.length > NARROW;
    if (cut) {
      const mistakes = (k) => places.reduce((sum, j) => sum + (j === k ? 0 : matrix.counts[k][j] + matrix.counts[j][k]), 0);
      const worst = new Set([...places].sort((a, b) => mistakes(b) - mistakes(a)).slice(0, NARROW));
      places = places.filter((k) => worst.has(k));
    }
    document.getElementById("matrix-cut").hidden = !cut;
    const size = places.length;
    const few = size <= 30;
    const asShares = values.value === "shares";
    const totals = places.map((t) => matrix.photos[t]);
    const grid = places.map((t) => places.map((p) => matrix.counts[t][p]));
    const share = (t, p) => (totals[t] ? grid[t][p] / totals[t] : 0);
    const amount = (t, p) => (asShares ? share(t, p) : grid[t][p]);
    let mostWrong = 0, mostRight = 0;
    for (let t = 0; t < size; t++) for (let p = 0; p < size; p++) {
      if (t === p) mostRight = Math.max(mostRight, amount(t, p));
      else mostWrong = Math.max(mostWrong, amount(t, p));
    }
    // The square root and the offset keep single mistakes visible.
    const strength = (t, p) => (t === p
      ? 0.15 + 0.85 * (asShares ? share(t, p) : amount(t, p) / mostRight)
      : 0.2 + 0.8 * Math.sqrt(amount(t, p) / mostWrong));

    const letters = few ? 13 : 9;
    ruler.font = `${letters}px ${getComputedStyle(document.body).fontFamily}`;
    const wide = (text) => ruler.measureText(text).width;
    const fit = (text, most) => {
      if (wide(text) <= most) return text;
      for (let kept = text.length - 1; kept > 0; kept--) {
        const short = text.slice(0, Math.ceil(kept / 2)) + "…" + text.slice(text.length - Math.floor(kept / 2));
        if (wide(short) <= most) return short;
      }
      return "…";
    };
    // Where there is little room, columns have the numbers of the rows.
    const names = places.map((k, at) => (narrow ? `${at + 1} ` : "") + nameOf(matrix.labels[k]));
    const rows = names.map((name) => fit(name, narrow ? room * 0.36 : 240));
    const columns = narrow ? places.map((_, at) => `${at + 1}`) : names.map((name) => fit(name, 200));
    const left = 26 + Math.max(...rows.map(wide));
    const turn = narrow ? 0 : -50;
    const slant = Math.cos((turn * Math.PI) / 180), rise = Math.sin((-turn * Math.PI) / 180);
    const longest = Math.max(...columns.map(wide));
    const top = 24 + (narrow ? letters + 4 : longest * rise + letters);
    const widest = size <= 4 ? 84 : size <= 12 ? 56 : few ? 36 : 14;
    let side = widest, right = 8;
    for (let pass = 0; pass < 3; pass++) { // the names of the last columns reach beyond their cells
      side = Math.min(widest, Math.max(narrow ? 14 : few ? 24 : 8, (room - left - right) / size));
      if (!narrow) right = Math.max(8, ...columns.map((name, p) => (p + 0.5) * side + wide(name) * slant + 8 - size * side));
    }
    const width = left + size * side + right, height = top + size * side + 8;
    const picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
    const write = (x, y, text, more = {}, full = "") => {
      const made = svg("text", { x, y, "font-size": letters, fill: "var(--text)", ...more }, text);
      if (full && full !== text) made.append(svg("title", {}, full));
      picture.append(made);
    };
    write(left, 14, t("Predicted"), { fill: "var(--muted)", "font-size": 13 });
    write(12, top + size * side / 2, t("Correct label"), { fill: "var(--muted)", "font-size": 13, "text-anchor": "middle", transform: `rotate(-90 12 ${top + size * side / 2})` });
    picture.append(svg("rect", { x: left, y: top, width: size * side, height: size * side, fill: "var(--page)" }));
    places.forEach((_, k) => {
      const middle = (k + 0.5) * side;
      write(left - 6, top + middle + letters * 0.35, rows[k], { class: "row", "text-anchor": "end" }, names[k]);
      write(left + middle, top - 6, columns[k], narrow ? { class: "column", "text-anchor": "middle" } : { class: "column", transform: `rotate(${turn} ${left + middle} ${top - 6})` }, names[k]);
    });
    const gap = few ? 2 : 0.5;
    for (let row = 0; row < size; row++) for (let p = 0; p < size; p++) {
      const count = grid[row][p];
      if (!count) continue;
      const kind = row === p ? "right" : "wrong", strong = strength(row, p);
      const truth = nameOf(matrix.labels[places[row]]), predicted = nameOf(matrix.labels[places[p]]);
      const sum = `${count} / ${totals[row]} (${percent(share(row, p))})`;
      const cell = svg("g", { class: "cell", "data-at": `${row} ${p}` },
        svg("title", {}, row === p ? t("{label}, correct: {photos}", { label: truth, photos: sum }) : t("{label} mistaken for {other}: {photos}", { label: truth, other: predicted, photos: sum })),
        svg("rect", {
          x: left + p * side, y: top + row * side, width: side - gap, height: side - gap, rx: few ? 3 : 0,
          style: `fill:color-mix(in srgb, var(--${kind}) ${Math.round(strong * 100)}%, var(--surface))`,
        }));
      if (few) {
        cell.append(svg("text", {
          x: left + (p + 0.5) * side - gap / 2, y: top + (row + 0.5) * side + 4, "text-anchor": "middle",
          "font-size": Math.min(13, side * 0.5), fill: strong > 0.6 ? "var(--page)" : "var(--text)",
        }, asShares ? `${Math.round(share(row, p) * 100)}` : `${count}`));
      }
      cell.addEventListener("click", () => openCell(matrix.labels[places[row]], matrix.labels[places[p]], count));
      picture.append(cell);
    }
    frame.replaceChildren(picture);
  }

  drawMatrix();
  let drawnFor = frame.parentElement.clientWidth;
  addEventListener("resize", () => {
    if (frame.parentElement.clientWidth === drawnFor) return;
    drawnFor = frame.parentElement.clientWidth;
    drawMatrix();
  });
  order.addEventListener("change", drawMatrix);
  values.addEventListener("change", drawMatrix);

  // --- confused pairs as buttons: the matrix for keyboards and screen readers

  const pairs = document.getElementById("pairs");
  if (pairs) {
    const found = [];
    matrix.counts.forEach((row, t) => row.forEach((count, p) => {
      if (count && t !== p) found.push([count, count / matrix.photos[t], matrix.labels[t], matrix.labels[p]]);
    }));
    found.sort((a, b) => b[0] - a[0] || b[1] - a[1] || a[2] - b[2]);
    const item = ([count, share, truth, predicted]) => {
      const fill = element("i");
      fill.style.width = `${share * 100}%`;
      const button = element("button", { type: "button" },
        element("span", {}, nameOf(truth), " → ", nameOf(predicted)),
        element("span", { class: "note num" }, `${count} (${percent(share)})`),
        element("span", { class: "meter", "aria-hidden": "true" }, fill));
      button.addEventListener("click", () => openCell(truth, predicted, count));
      return element("li", {}, button);
    };
    const FIRST = 18;
    pairs.append(...found.slice(0, FIRST).map(item));
    const more = document.getElementById("more-pairs");
    if (found.length > FIRST) {
      more.hidden = false;
      more.textContent = t("Show all {count}", { count: found.length.toLocaleString("en") });
      more.addEventListener("click", () => {
        pairs.append(...found.slice(FIRST).map(item));
        more.parentElement.remove();
        pairs.children[FIRST].querySelector("button").focus();
      });
    }
  }
}

if (data.matrix) showConfusion(data.matrix);

// --- the table of labels

const table = document.getElementById("label-table");
const headings = [...table.tHead.rows[0].cells];
headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => {
  const down = heading.getAttribute("aria-sort") === "ascending";
  for (const other of headings) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", down ? "descending" : "ascending");
  const key = (row) => {
    const cell = row.cells[column];
    return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
  };
  const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  const rows = [...table.tBodies[0].rows].sort((a, b) => (down ? -1 : 1) * compare(key(a), key(b)));
  table.tBodies[0].append(...rows);
}));
table.addEventListener("click", (event) => {
  const button = event.target.closest("[data-label]");
  if (!button) return;
  const label = Number(button.dataset.label);
  const list = photos.filter((photo) => photo.truths.includes(label))
    .sort((a, b) => a.correct - b.correct || b.probability - a.probability);
  viewer.many(t("{label}: mistakes first", { label: nameOf(label) }), list);
});
const find = document.getElementById("find-label");
find.addEventListener("input", () => {
  const wanted = find.value.normalize("NFC").toLowerCase();
  for (const row of table.tBodies[0].rows) {
    row.hidden = !row.cells[0].textContent.normalize("NFC").toLowerCase().includes(wanted);
  }
});

// --- likely label errors

function doubted(gallery, rows, describe) {
  fillGallery(gallery, rows, (row) => {
    const [path] = row;
    const { sentence, figure } = describe(row);
    const verdict = element("p", { class: "verdict" }, ...sentence);
    const words = verdict.textContent;
    verdict.append(` ${figure}`);
    const picture = element("div", { class: "picture" });
    fillPicture(picture, path, words[0].toUpperCase() + words.slice(1), false);
    const made = element("article", { class: "card is-wrong" }, picture, verdict, element("p", { class: "file" }, path));
    if (data.annotate_url) {
      made.lastElementChild.append(" ", element("a", { href: data.annotate_url + encodeURIComponent(path) }, t("Annotate")));
    }
    return made;
  });
}

const suspects = document.querySelector('[data-gallery="suspects"]');
if (suspects) {
  doubted(suspects, data.suspects, ([, label, suggested, probability]) => ({
    sentence: label === null ? rich("not labeled {label}, but looks like it", { label: suggested })
      : suggested === null ? rich("labeled {label}, but does not look like it", { label })
        : rich("labeled {label}, but looks like {other}", { label, other: suggested }),
    figure: percent(probability),
  }));
}
const harmful = document.querySelector('[data-gallery="harmful"]');
if (harmful) {
  doubted(harmful, data.harmful, ([, label, looksLike, harm]) => ({
    sentence: looksLike === null ? rich("labeled {label}, as it looks", { label })
      : rich("labeled {label}, but looks like {other}", { label, other: looksLike }),
    figure: t("(raises the error by {share})", { share: percent(harm) }),
  }));
}
