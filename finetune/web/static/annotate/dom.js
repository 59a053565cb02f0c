// Elements from values. Text is set as text, never parsed: names and labels are other people's.

export function el(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [type, listener] of Object.entries(value)) node.addEventListener(type, listener);
    } else if (name === "data") {
      Object.assign(node.dataset, value);
    } else if (name === "css") {
      for (const [key, entry] of Object.entries(value)) node.style.setProperty(key, entry);
    } else if (name in node && !name.startsWith("aria")) {
      node[name] = value;
    } else {
      node.setAttribute(name, value === true ? "" : value);
    }
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

export const find = (id) => document.getElementById(id);

// A key cap.
export const cap = (text) => el("kbd", {}, text);

const NUMBERS = new Intl.NumberFormat("en");
export const count = (number, one, many = `${one}s`) =>
  `${NUMBERS.format(number)} ${number === 1 ? one : many}`;
export const figure = (number) => NUMBERS.format(number);
export const percent = (share) => `${share >= 0.995 ? 100 : Math.floor(share * 100)} %`;
