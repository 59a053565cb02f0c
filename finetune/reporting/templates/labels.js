"use strict";
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
    .sort((a, b) => a.right - b.right || b.probability - a.probability);
  viewer.many(`${nameOf(label)}: mistakes first`, list);
});
const find = document.getElementById("find-label");
find.addEventListener("input", () => {
  const wanted = find.value.normalize("NFC").toLowerCase();
  for (const row of table.tBodies[0].rows) {
    row.hidden = !row.cells[0].textContent.normalize("NFC").toLowerCase().includes(wanted);
  }
});
