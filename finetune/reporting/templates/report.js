"use strict";
// What is the report's own: its galleries, the confusion matrix, the table of labels.

// --- galleries

const galleryOf = (name) => document.querySelector(`[data-gallery="${name}"]`);
const members = Object.fromEntries(
  Object.entries(data.galleries).map(([name, places]) => [name, places.map((k) => photos[k])]));

for (const name of ["surest", "least_sure"]) {
  const list = members[name];
  fillGallery(galleryOf(name), list, (photo) => card(photo, { list }), name === "surest" ? 96 : PAGE);
}

const mistakes = galleryOf("mistakes");
if (mistakes) {
  const filter = document.querySelector('[data-filter="mistakes"]');
  const overlays = document.getElementById("overlays");
  const counts = new Map();
  for (const photo of members.mistakes) counts.set(photo.truth, (counts.get(photo.truth) || 0) + 1);
  filter.append(element("option", { value: "" }, `every label (${members.mistakes.length})`));
  for (const [label, count] of [...counts].sort((a, b) => a[0] - b[0])) {
    filter.append(element("option", { value: label }, `${nameOf(label)} (${count})`));
  }
  const show = () => {
    const list = members.mistakes.filter((photo) => filter.value === "" || photo.truth === Number(filter.value));
    fillGallery(mistakes, list, (photo) => card(photo, { list, overlay: overlays?.checked }));
  };
  filter.addEventListener("change", show);
  overlays?.addEventListener("change", show);
  show();
}

// --- the photos of a cell

const cells = new Map();
for (const photo of photos) {
  const key = `${photo.truth} ${photo.predicted}`;
  if (!cells.has(key)) cells.set(key, []);
  cells.get(key).push(photo);
}
for (const list of cells.values()) list.sort((a, b) => b.probability - a.probability);

function openCell(truth, predicted, count) {
  const list = cells.get(`${truth} ${predicted}`) || [];
  const held = list.length < count ? `, ${list.length.toLocaleString("en")} of them in this file` : "";
  const heading = truth === predicted
    ? `${nameOf(truth)}, named rightly: ${photosInWords(count)}${held}`
    : `${nameOf(truth)} taken for ${nameOf(predicted)}: ${photosInWords(count)}${held}`;
  viewer.many(heading, list);
}

// --- the matrix

const matrix = data.matrix;
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
  // Right answers above 0, mistakes below: one scale of two colors. A single mistake is still seen:
  // the root lifts small shares, and none is fainter than a fifth of the strongest.
  const strength = (t, p) => {
    if (!grid[t][p]) return 0;
    if (t === p) return 0.15 + 0.85 * (asShares ? share(t, p) : amount(t, p) / mostRight);
    return -(0.2 + 0.8 * Math.sqrt(amount(t, p) / mostWrong));
  };
  const hover = grid.map((row, t) => row.map((count, p) => {
    const truth = chartText(nameOf(matrix.labels[places[t]]));
    const said = chartText(nameOf(matrix.labels[places[p]]));
    const sum = `${count} of ${totals[t]} (${percent(share(t, p))})`;
    return t === p ? `${truth}<br>right: ${sum}` : `${truth}<br>taken for ${said}: ${sum}`;
  }));
  const longest = Math.max(...shown.map((name) => name.length));
  const margin = 40 + longest * (few ? 6.6 : 5);
  const widest = size <= 4 ? 84 : size <= 12 ? 56 : few ? 34 : 14;
  // Cells shrink until they fit, but no further than a finger or an eye can follow; then it scrolls.
  const side = Math.min(widest, Math.max(few ? 24 : 10, (room - margin - 24) / size));
  const width = margin + size * side + 24;
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
      margin: { t: margin, l: margin, r: 24, b: 12 },
      xaxis: { ...ticks, side: "top", tickangle: -60, title: { text: "What it said", standoff: 6 }, showline: false },
      yaxis: { ...ticks, autorange: "reversed", title: { text: "Truth", standoff: 4 }, showline: false },
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

// --- every confusion as a button: what the matrix shows, for keyboard and screen reader

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
