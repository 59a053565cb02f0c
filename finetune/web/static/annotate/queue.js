// Which photos are shown, in which order, where the cursor is, and what is selected.

import { contradiction, guessOf, isLabeled, photos } from "./photos.js";

const byPath = (a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0);
const by = (key, direction = 1) => (a, b) => {
  const [x, y] = [key(a), key(b)];
  if (x === y) return byPath(a, b);
  if (x === undefined) return 1;
  if (y === undefined) return -1;
  return x < y ? -direction : direction;
};

export const FILTERS = [
  ["all", "all photos", (row) => !row.rejected && !row.problem],
  ["unlabeled", "unlabeled", (row) => !isLabeled(row) && !row.rejected && !row.problem],
  ["labeled", "labeled", (row) => isLabeled(row) && !row.rejected && !row.problem],
  ["doubtful", "label in doubt", (row) => (row.disagreement ?? 0) >= 0.5 && !row.rejected],
  ["twice", "two labels for one", (row) => !row.rejected && contradiction(row)?.ids[0] === row.id],
  ["flagged", "flagged", (row) => row.flag],
  ["cropped", "with a square", (row) => row.crop && !row.rejected],
  ["bad", "bad photos", (row) => row.problem || (row.faults && !row.rejected)],
  ["out", "rejected", (row) => row.rejected],
];

export const SORTS = [
  ["useful", "most useful first", by((row) => row.rank)],
  ["path", "folder", byPath],
  ["time", "time", by((row) => row.taken)],
  ["group", "near-duplicates", by((row) => row.group)],
  ["similar", "similar to this one", null],
  ["guess", "suggested label", (a, b) => {
    const [x, y] = [guessOf(a), guessOf(b)];
    if (!x || !y) return x ? -1 : y ? 1 : byPath(a, b);
    return x.label < y.label ? -1 : x.label > y.label ? 1 : y.share - x.share || byPath(a, b);
  }],
  ["unsure", "uncertainty", by((row) => row.uncertainty, -1)],
  ["doubt", "doubt about the label", by((row) => row.disagreement, -1)],
];

class Queue extends EventTarget {
  view = "grid";
  filter = "all";
  sort = "path";
  list = [];
  cursor = null; // an id
  selected = new Set();
  together = true; // near-duplicates get a label together
  alone = null; // the photo that shall not, for once
  #anchor = null;
  #places = new Map();
  #similar = [];

  matches(row) {
    const label = this.filter.startsWith("label:") ? this.filter.slice(6) : null;
    if (label !== null) return Boolean(row.labels?.includes(label)) && !row.rejected;
    return FILTERS.find(([name]) => name === this.filter)[2](row);
  }

  // Shown photos that no longer match what is shown: they stay until the list is made anew.
  get stale() {
    return this.list.filter((id) => !this.matches(photos.get(id))).length;
  }

  get place() {
    return this.#places.get(this.cursor) ?? -1;
  }

  placeOf(id) {
    return this.#places.get(id) ?? -1;
  }

  // What a label is given to: near-duplicates without one get it together, unless told apart.
  get labelTargets() {
    const company = this.company;
    return company.length ? company : this.targets;
  }

  // The near-duplicates that share the next label of the photo under the cursor, itself included.
  get company() {
    const row = photos.get(this.cursor);
    const one = this.view !== "single" || this.selected.size > 0 || this.alone === this.cursor;
    if (!this.together || one || !row || row.group === undefined || isLabeled(row)) return [];
    const open = (id) => !isLabeled(photos.get(id)) && !photos.get(id).rejected;
    const ids = photos.group(row.group).filter(open);
    return ids.length > 1 ? ids : [];
  }

  takeTogether(together) {
    this.together = together;
    this.alone = null;
    this.#tell("selection");
  }

  leaveAlone() {
    this.alone = this.cursor;
    this.#tell("selection");
  }

  // What an action is about: the selection, or else the photo under the cursor.
  get targets() {
    if (this.selected.size) return [...this.selected];
    return this.cursor === null ? [] : [this.cursor];
  }

  rebuild({ keep = true } = {}) {
    const place = this.place;
    this.#arrange([...photos.rows.values()].filter((row) => this.matches(row)));
    if (!keep || !this.#places.has(this.cursor)) {
      this.cursor = this.list[Math.min(Math.max(place, 0), this.list.length - 1)] ?? null;
      if (!keep) this.cursor = this.list[0] ?? null;
    }
    for (const id of this.selected) if (!this.#places.has(id)) this.selected.delete(id);
    this.#tell("list");
  }

  #arrange(rows) {
    const compare = SORTS.find(([name]) => name === this.sort)[2];
    if (compare) {
      rows.sort(compare);
    } else {
      const rank = new Map(this.#similar.map((id, place) => [id, place]));
      rows.sort(by((row) => rank.get(row.id)));
    }
    this.list = rows.map((row) => row.id);
    this.#index();
  }

  #index() {
    this.#places = new Map(this.list.map((id, place) => [id, place]));
  }

  // Adds photos that appeared, and brings what lies ahead into the order of what is known now.
  renew() {
    const known = new Set(this.list);
    const fresh = [...photos.rows.values()].filter((row) => !known.has(row.id) && this.matches(row));
    const gone = this.list.some((id) => !photos.rows.has(id));
    if (gone || (fresh.length && this.sort === "path")) return this.rebuild();
    if (!fresh.length && !["useful", "unsure"].includes(this.sort)) return undefined;
    const past = this.list.slice(0, this.place + 1);
    const ahead = this.list.slice(this.place + 1).map((id) => photos.get(id)).concat(fresh);
    const done = ahead.filter((row) => !this.matches(row)).map((row) => row.id);
    const open = ahead.filter((row) => this.matches(row));
    this.#arrange(open);
    this.list = [...past, ...this.list, ...done];
    this.#index();
    this.#tell("list");
    return undefined;
  }

  show({ view, filter, sort, similar }) {
    if (similar) this.#similar = similar;
    const changed = (filter && filter !== this.filter) || (sort && (sort !== this.sort || similar));
    if (view) this.view = view;
    if (filter) this.filter = filter;
    if (sort) this.sort = sort;
    if (changed) this.rebuild({ keep: sort === undefined && filter === undefined });
    this.#tell("view");
  }

  move(id, { extend = false } = {}) {
    if (id === null || id === undefined) return;
    if (extend) {
      this.#anchor ??= this.cursor;
      const [from, to] = [this.placeOf(this.#anchor), this.placeOf(id)].sort((a, b) => a - b);
      this.selected = new Set(this.list.slice(Math.max(0, from), to + 1));
    } else {
      this.#anchor = null;
      if (this.view === "single") this.selected.clear();
    }
    this.cursor = id;
    this.#tell("cursor");
  }

  step(by_, options) {
    const last = this.list.length - 1;
    if (last >= 0) this.move(this.list[Math.min(Math.max(this.place + by_, 0), last)], options);
  }

  // Goes to the next photo that still wants a decision; stays where there is none.
  advance() {
    this.selected.clear();
    this.#anchor = null;
    this.renew();
    const open = (id) => {
      const row = photos.get(id);
      return !isLabeled(row) && !row.rejected && !row.problem;
    };
    const wants = this.filter === "all" || this.filter.startsWith("label:") || this.filter === "labeled"
      ? () => true
      : this.filter === "unlabeled" ? open : (id) => this.matches(photos.get(id));
    const after = this.list.slice(this.place + 1).find(wants);
    this.cursor = after ?? this.list.slice(0, Math.max(0, this.place)).find(wants) ?? this.cursor;
    this.#tell("cursor");
    return after !== undefined;
  }

  // The photos that come next, for loading them ahead.
  coming(many) {
    return this.list.slice(this.place + 1, this.place + 1 + many);
  }

  toggle(id) {
    this.#anchor = id;
    if (!this.selected.delete(id)) this.selected.add(id);
    this.#tell("selection");
  }

  select(ids) {
    this.selected = new Set(ids);
    this.#tell("selection");
  }

  #tell(what) {
    this.dispatchEvent(new CustomEvent("change", { detail: what }));
  }
}

export const queue = new Queue();
