// Whether the current photo was on screen when a key was pressed. Keys pressed before are kept: they
// were pressed without seeing it, and are used only if the person says so.

class Sight extends EventTarget {
  #id = null;
  #at = null; // time at which the photo appeared; null before
  #ready = null;
  #isLeaving = false;
  #pressedAt = 0;
  #early = []; // what keys pressed too early would have done

  constructor() {
    super();
    for (const type of ["keydown", "pointerdown"]) {
      addEventListener(type, ({ timeStamp }) => { this.#pressedAt = timeStamp; }, true);
    }
  }

  // Called when a photo is drawn; it appears in the frame after `ready`.
  watch(id, ready) {
    if (this.#isLeaving || (this.#id === id && (this.#at !== null || this.#ready === ready))) return;
    [this.#id, this.#at, this.#ready] = [id, null, ready];
    ready.then(() => requestAnimationFrame(() => {
      if (this.#ready === ready && this.#id === id) this.#at ??= performance.now();
    }));
  }

  // The photo on screen has been decided: keys are for the one that is drawn after `arrive`.
  leave() {
    [this.#isLeaving, this.#at, this.#ready] = [true, null, null];
  }

  arrive() {
    this.#isLeaving = false;
  }

  hasSeen(id) {
    return this.#id === id && this.#at !== null && this.#pressedAt >= this.#at;
  }

  get earlyCount() {
    return this.#early.length;
  }

  keep(run) {
    this.#early.push(run);
    this.dispatchEvent(new Event("change"));
  }

  // Takes the first key that was pressed too early.
  take() {
    const run = this.#early.shift();
    this.dispatchEvent(new Event("change"));
    return run;
  }

  // Drops them, and returns their number.
  drop() {
    const count = this.#early.length;
    this.#early = [];
    if (count) this.dispatchEvent(new Event("change"));
    return count;
  }
}

export const sight = new Sight();
