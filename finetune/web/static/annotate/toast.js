// One line at the foot of the page: what was done, or why not. Read out by screen readers.

import { el, find } from "./dom.js";

let timer = 0;

const ALSO_MS = 5000;

// `also`: a line that stays beside the next ones.
export function toast(text, { bad = false, stay = false, also = false } = {}) {
  const box = find("toast");
  const line = el("p", { className: bad || also ? "bad" : "" }, text);
  if (also) {
    line.dataset.also = "";
    setTimeout(() => line.remove(), ALSO_MS);
  }
  box.replaceChildren(line, ...box.querySelectorAll("[data-also]"));
  box.classList.add("shown");
  clearTimeout(timer);
  if (!stay) timer = setTimeout(() => box.classList.remove("shown"), bad ? 8000 : 2600);
}
