"use strict";
// Data and theme of the page.

const data = JSON.parse(document.getElementById("data").textContent);

const percent = (share) => {
  if (share === null || share === undefined) return "–";
  const value = share * 100;
  if (value <= 0 || value >= 100) return `${Math.round(value)}\u202f%`;
  // Only exactly 0 and 1 become 0 % and 100 %.
  if (value < 0.1) return "<\u202f0.1\u202f%";
  if (value > 99.9) return ">\u202f99.9\u202f%";
  return `${value.toFixed(1)}\u202f%`;
};

const countPhotos = (count) => `${count.toLocaleString("en")} ${count === 1 ? "photo" : "photos"}`;

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : darkScheme.matches;
  root.dataset.theme = dark ? "light" : "dark";
});
