// One line at the foot of the page: what was done, or why not. Read out by screen readers.

import { el, find } from "./dom.js";

let timer = 0;

export function toast(text, { bad = false, stay = false } = {}) {
  const box = find("toast");
  box.replaceChildren(el("p", { className: bad ? "bad" : "" }, text));
  box.classList.add("shown");
  clearTimeout(timer);
  if (!stay) timer = setTimeout(() => box.classList.remove("shown"), bad ? 8000 : 2600);
}
