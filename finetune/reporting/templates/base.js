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

// Texts in the language of the page; the English text is the key.
const filled = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
const t = (text, values = {}) => filled(data.messages[text] ?? text, values);
const tn = (one, many, count, values = {}) => {
  const forms = data.messages[one] ?? [one, many];
  return filled(count === 1 ? forms[0] : forms[forms.length - 1], { count: count.toLocaleString("en"), ...values });
};

const countPhotos = (count) => tn("{count} photo", "{count} photos", count);

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : darkScheme.matches;
  root.dataset.theme = dark ? "light" : "dark";
});
