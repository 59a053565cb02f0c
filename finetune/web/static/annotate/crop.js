// Crop of a photo, moved and resized by pointer or keyboard.
//
// A crop is [centerX, centerY, side]: the center as fractions of width and height, the side as a
// fraction of the shorter side.

import { el } from "./dom.js";
import { t } from "./i18n.js";

const MIN_SIDE = 0.05;
const CORNERS = ["nw", "ne", "sw", "se"];

export class CropBox {
  // width, height: of the photo, in any unit.
  constructor({ width, height, crop }) {
    this.width = width;
    this.height = height;
    this.crop = crop ?? [0.5, 0.5, 1];
    this.frame = el(
      "div",
      {
        className: "crop-box",
        tabIndex: 0,
        role: "application",
        "aria-roledescription": "crop",
        "aria-label": t("Crop around the subject. Arrow keys move it, plus and minus resize it, Enter saves it."),
      },
      CORNERS.map((corner) => el("span", { className: `corner ${corner}`, data: { corner } })),
    );
    // The veil ends at the edge of the photo; the corners may reach over it.
    this.hole = el("div", { className: "crop-hole" });
    const veil = el("div", { className: "crop-veil" }, this.hole);
    this.layer = el("div", { className: "crop-layer" }, veil, this.frame);
    this.frame.addEventListener("pointerdown", (event) => this.#grab(event));
    this.place();
  }

  get short() {
    return Math.min(this.width, this.height);
  }

  place() {
    const [x, y, side] = this.crop;
    const part = side * this.short;
    for (const { style } of [this.frame, this.hole]) {
      style.left = `${(x - part / this.width / 2) * 100}%`;
      style.top = `${(y - part / this.height / 2) * 100}%`;
      style.width = `${(part / this.width) * 100}%`;
      style.height = `${(part / this.height) * 100}%`;
    }
  }

  set(x, y, side) {
    const most = Math.max(this.width, this.height) / this.short;
    const size = Math.min(Math.max(side, MIN_SIDE), most);
    // Stay inside the photo; center along an axis on which the crop is larger.
    const fit = (value, length) => {
      const half = (size * this.short) / length / 2;
      return half >= 0.5 ? 0.5 : Math.min(Math.max(value, half), 1 - half);
    };
    this.crop = [fit(x, this.width), fit(y, this.height), size];
    this.place();
  }

  nudge(dx, dy, step) {
    const [x, y, side] = this.crop;
    this.set(x + (dx * step * this.short) / this.width, y + (dy * step * this.short) / this.height, side);
  }

  resize(factor) {
    const [x, y, side] = this.crop;
    this.set(x, y, side * factor);
  }

  center() {
    this.set(0.5, 0.5, 1);
  }

  fill() {
    this.set(0.5, 0.5, Math.max(this.width, this.height) / this.short);
  }

  #grab(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.frame.focus({ preventScroll: true });
    const corner = event.target.dataset.corner;
    const area = this.layer.getBoundingClientRect();
    const [x, y, side] = this.crop;
    const start = [event.clientX, event.clientY];
    this.frame.setPointerCapture(event.pointerId);
    const move = (moved) => {
      const dx = (moved.clientX - start[0]) / area.width;
      const dy = (moved.clientY - start[1]) / area.height;
      if (!corner) {
        this.set(x + dx, y + dy, side);
        return;
      }
      // The opposite corner stays fixed; the side follows the pointer along the diagonal.
      const right = corner.includes("e") ? 1 : -1;
      const down = corner.includes("s") ? 1 : -1;
      const growth = (right * dx * this.width + down * dy * this.height) / 2 / this.short;
      const fixedX = x - (right * side * this.short) / this.width / 2;
      const fixedY = y - (down * side * this.short) / this.height / 2;
      const maxX = (right > 0 ? 1 - fixedX : fixedX) * this.width;
      const maxY = (down > 0 ? 1 - fixedY : fixedY) * this.height;
      const maxSide = side > 1 ? Infinity : Math.min(maxX, maxY) / this.short;
      const size = Math.min(Math.max(side + growth, MIN_SIDE), maxSide);
      this.set(
        fixedX + (right * size * this.short) / this.width / 2,
        fixedY + (down * size * this.short) / this.height / 2,
        size,
      );
    };
    const drop = () => {
      this.frame.removeEventListener("pointermove", move);
      this.frame.removeEventListener("pointerup", drop);
      this.frame.removeEventListener("pointercancel", drop);
    };
    this.frame.addEventListener("pointermove", move);
    this.frame.addEventListener("pointerup", drop);
    this.frame.addEventListener("pointercancel", drop);
  }
}
