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
  filter.append(element("option", { value: "" }, `all labels (${members.mistakes.length})`));
  for (const [kind, words] of [["missed", "missed"], ["extra", "wrongly predicted"]]) {
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
    const available = list.length < count ? `, ${list.length.toLocaleString("en")} of them in this file` : "";
    const heading = truth === predicted
      ? `${nameOf(truth)}, correct: ${countPhotos(count)}${available}`
      : `${nameOf(truth)} mistaken for ${nameOf(predicted)}: ${countPhotos(count)}${available}`;
    viewer.many(heading, list);
  }

  // --- confusion matrix

  const frame = document.getElementById("matrix");
  const order = document.getElementById("matrix-order");
  const values = document.getElementById("matrix-values");

  function matrixFigure() {
    const places = matrix.orders[order.value];
    const size = places.length;
    const few = size <= 30;
    const room = frame.parentElement.clientWidth - 20;
    const shown = places.map((k) => shorten(nameOf(matrix.labels[k]), room < 500 ? 12 : 24));
    const names = shown.map(chartText);
    const asShares = values.value === "shares";
    const grid = places.map((t) => places.map((p) => matrix.counts[t][p]));
    const totals = places.map((t) => matrix.photos[t]);
    const share = (t, p) => (totals[t] ? grid[t][p] / totals[t] : 0);
    const amount = (t, p) => (asShares ? share(t, p) : grid[t][p]);
    let mostWrong = 0, mostRight = 0;
    for (let t = 0; t < size; t++) for (let p = 0; p < size; p++) {
      if (t === p) mostRight = Math.max(mostRight, amount(t, p));
      else mostWrong = Math.max(mostWrong, amount(t, p));
    }
    // Correct cells above 0, mistakes below: one scale of two colors. The square root and the offset
    // keep single mistakes visible.
    const strength = (t, p) => {
      if (!grid[t][p]) return 0;
      if (t === p) return 0.15 + 0.85 * (asShares ? share(t, p) : amount(t, p) / mostRight);
      return -(0.2 + 0.8 * Math.sqrt(amount(t, p) / mostWrong));
    };
    const hover = grid.map((row, t) => row.map((count, p) => {
      const truth = chartText(nameOf(matrix.labels[places[t]]));
      const predicted = chartText(nameOf(matrix.labels[places[p]]));
      const sum = `${count} of ${totals[t]} (${percent(share(t, p))})`;
      return t === p ? `${truth}<br>correct: ${sum}` : `${truth}<br>mistaken for ${predicted}: ${sum}`;
    }));
    const letter = few ? 6.6 : 5; // mean width of a letter in pixels
    const longest = Math.max(...shown.map((name) => name.length));
    const margin = 40 + longest * letter;
    // The slanted name of the last column reaches beyond its cell.
    const right = Math.max(24, shown.at(-1).length * letter * Math.cos(Math.PI / 3));
    const widest = size <= 4 ? 84 : size <= 12 ? 56 : few ? 34 : 14;
    // Cells shrink to fit, but stay large enough to tap or see; beyond that, the frame scrolls.
    const side = Math.min(widest, Math.max(few ? 24 : 10, (room - margin - right) / size));
    const width = margin + size * side + right;
    const ticks = { tickmode: "array", tickvals: [...Array(size).keys()], ticktext: names, showgrid: false, zeroline: false, tickfont: { size: few ? 12 : 9 }, fixedrange: true, automargin: false };
    return {
      data: [{
        type: "heatmap",
        z: grid.map((row, t) => row.map((_, p) => strength(t, p))),
        zmin: -1, zmax: 1,
        colorscale: [[0, "var(--wrong)"], [0.5, "var(--surface)"], [1, "var(--right)"]],
        showscale: false, xgap: few ? 2 : 1, ygap: few ? 2 : 1,
        hoverinfo: "text", hovertext: hover,
        ...(few && {
          text: grid.map((row, t) => row.map((count, p) => !count ? "" : asShares ? `${Math.round(share(t, p) * 100)}` : `${count}`)),
          texttemplate: "%{text}", textfont: { size: size <= 12 ? 13 : 10 },
        }),
      }],
      layout: {
        width, height: margin + size * side + 12,
        margin: { t: margin, l: margin, r: right, b: 12 },
        xaxis: { ...ticks, side: "top", tickangle: -60, title: { text: "Predicted", standoff: 6 }, showline: false },
        yaxis: { ...ticks, autorange: "reversed", title: { text: "Correct label", standoff: 4 }, showline: false },
      },
      config: { responsive: false },
      places,
    };
  }

  let drawn = null;
  function drawMatrix() {
    drawn = matrixFigure();
    draw(frame, drawn);
    frame.style.cursor = "pointer";
  }
  drawWhenNear(frame, () => (drawn = matrixFigure()));
  const attach = new MutationObserver(() => {
    if (!frame.on) return;
    attach.disconnect();
    frame.on("plotly_click", ({ points: [point] }) => {
      const [t, p] = [drawn.places[point.pointNumber[0]], drawn.places[point.pointNumber[1]]];
      if (matrix.counts[t][p]) openCell(matrix.labels[t], matrix.labels[p], matrix.counts[t][p]);
    });
  });
  attach.observe(frame, { childList: true, subtree: true });
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
      more.textContent = `Show all ${found.length.toLocaleString("en")}`;
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
  viewer.many(`${nameOf(label)}: mistakes first`, list);
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
      made.lastElementChild.append(" ", element("a", { href: data.annotate_url + encodeURIComponent(path) }, "Annotate"));
    }
    return made;
  });
}

const strong = (words) => element("strong", {}, words);
const suspects = document.querySelector('[data-gallery="suspects"]');
if (suspects) {
  doubted(suspects, data.suspects, ([, label, suggested, probability]) => ({
    sentence: label === null ? ["not labeled ", strong(suggested), ", but looks like it"]
      : suggested === null ? ["labeled ", strong(label), ", but does not look like it"]
        : ["labeled ", strong(label), ", but looks like ", strong(suggested)],
    figure: percent(probability),
  }));
}
const harmful = document.querySelector('[data-gallery="harmful"]');
if (harmful) {
  doubted(harmful, data.harmful, ([, label, looksLike, harm]) => ({
    sentence: looksLike === null ? ["labeled ", strong(label), ", as it looks"]
      : ["labeled ", strong(label), ", but looks like ", strong(looksLike)],
    figure: `(raises the error by ${percent(harm)})`,
  }));
}
