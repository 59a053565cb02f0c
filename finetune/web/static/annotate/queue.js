// Queue of photos: filter, order, current photo and selection.

import { t } from "./i18n.js";
import { conflict, suggestionOf, isLabeled, photos } from "./photos.js";
import { matcher } from "./search.js";

const byPath = (a, b) => (a.path < b.path ? -1 : a.path > b.path ? 1 : 0);
const by = (key, direction = 1) => (a, b) => {
  const [x, y] = [key(a), key(b)];
  if (x === y) return byPath(a, b);
  if (x === undefined) return 1;
  if (y === undefined) return -1;
  return x < y ? -direction : direction;
};

export const FILTERS = [
  ["all", t("all photos"), (row) => !row.rejected && !row.problem],
  ["unlabeled", t("unlabeled"), (row) => !isLabeled(row) && !row.rejected && !row.problem],
  ["labeled", t("labeled"), (row) => isLabeled(row) && !row.rejected && !row.problem],
  ["errors", t("possible label errors"), (row) => (row.disagreement ?? 0) >= 0.5 && !row.confirmed && !row.rejected],
  ["conflicts", t("conflicting labels"), (row) => !row.rejected && conflict(row)?.ids[0] === row.id],
  ["review", t("to review"), (row) => row.review && !row.rejected],
  ["flagged", t("flagged"), (row) => row.flag],
  ["starred", t("with stars"), (row) => row.stars && !row.rejected],
  ["cropped", t("cropped"), (row) => row.crop && !row.rejected],
  ["bad", t("poor quality or unreadable"), (row) => row.problem || (row.faults && !row.rejected)],
  ["rejected", t("rejected"), (row) => row.rejected],
];

export const SORTS = [
  ["useful", t("most useful first"), by((row) => row.rank)],
  ["path", t("path"), byPath],
  ["time", t("date taken"), by((row) => row.taken)],
  ["group", t("near-duplicates"), by((row) => row.group)],
  ["similar", t("similar to this photo"), null],
  ["suggestion", t("suggested label"), (a, b) => {
    const [x, y] = [suggestionOf(a), suggestionOf(b)];
    if (!x || !y) return x ? -1 : y ? 1 : byPath(a, b);
    return x.label < y.label ? -1 : x.label > y.label ? 1 : y.probability - x.probability || byPath(a, b);
  }],
  ["uncertainty", t("most uncertain first"), by((row) => row.uncertainty, -1)],
  ["errors", t("likely label errors first"), by((row) => row.disagreement, -1)],
  ["stars", t("most stars first"), by((row) => row.stars, -1)],
];

class Queue extends EventTarget {
  view = "grid";
  filter = "all";
  search = "";
  sort = "path";
  list = [];
  cursor = null; // an id
  selected = new Set();
  labelGroups = true; // label near-duplicates together
  isThrough = false; // whether no photo follows that waits for a label
  ungroupedFor = null; // id of the photo to label alone, once
  #anchor = null;
  #places = new Map();
  #stacks = new Map(); // in the grid: all listed photos of a near-duplicate group, by the first
  #similar = [];

  matches(row) {
    return this.#isFound(row) && this.#isShown(row) && (!this.#only || this.#only.has(row.id));
  }

  #isFound = () => true;
  #only = null; // ids that were chosen on the map, until another filter is chosen

  // Whether only photos chosen on the map are listed.
  get isPart() {
    return this.#only !== null;
  }

  #isShown(row) {
    const label = this.filter.startsWith("label:") ? this.filter.slice(6) : null;
    if (label !== null) return Boolean(row.labels?.includes(label)) && !row.rejected;
    return FILTERS.find(([name]) => name === this.filter)[2](row);
  }

  // Number of listed photos that no longer match the filter; they stay until the list is rebuilt.
  get stale() {
    return this.list.filter((id) => !this.matches(photos.get(id))).length;
  }

  get place() {
    return this.#places.get(this.cursor) ?? -1;
  }

  placeOf(id) {
    return this.#places.get(id) ?? -1;
  }

  // Photos that the next label applies to.
  // The photos that a place in the list stands for.
  stackOf(id) {
    return this.#stacks.get(id) ?? [id];
  }

  get isStacking() {
    return this.labelGroups && this.view === "grid" && this.filter !== "conflicts";
  }

  get labelTargets() {
    const groupTargets = this.groupTargets;
    return groupTargets.length ? groupTargets : this.targets;
  }

  // Unlabeled near-duplicates of the current photo, itself included, if they are labeled together.
  get groupTargets() {
    const row = photos.get(this.cursor);
    const one = this.view !== "single" || this.selected.size > 0 || this.ungroupedFor === this.cursor;
    if (!this.labelGroups || one || !row || row.group === undefined || isLabeled(row)) return [];
    const open = (id) => !isLabeled(photos.get(id)) && !photos.get(id).rejected;
    const ids = photos.group(row.group).filter(open);
    return ids.length > 1 ? ids : [];
  }

  setLabelGroups(labelGroups) {
    this.labelGroups = labelGroups;
    this.ungroupedFor = null;
    this.rebuild();
  }

  excludeGroup() {
    this.ungroupedFor = this.cursor;
    this.#emit("selection");
  }

  // The selection, or else the current photo.
  get targets() {
    const chosen = this.selected.size ? [...this.selected] : this.cursor === null ? [] : [this.cursor];
    return this.isStacking ? [...new Set(chosen.flatMap((id) => this.stackOf(id)))] : chosen;
  }

  rebuild({ keep = true } = {}) {
    const place = this.place;
    this.#sort([...photos.rows.values()].filter((row) => this.matches(row)));
    const stack = [...this.#stacks].find(([, ids]) => ids.includes(this.cursor));
    if (keep && stack) [this.cursor] = stack;
    if (!keep || !this.#places.has(this.cursor)) {
      this.cursor = this.list[Math.min(Math.max(place, 0), this.list.length - 1)] ?? null;
      if (!keep) this.cursor = this.list[0] ?? null;
    }
    for (const id of this.selected) if (!this.#places.has(id)) this.selected.delete(id);
    this.#emit("list");
  }

  #sort(rows) {
    const compare = SORTS.find(([name]) => name === this.sort)[2];
    if (compare) {
      rows.sort(compare);
    } else {
      const rank = new Map(this.#similar.map((id, place) => [id, place]));
      rows.sort(by((row) => rank.get(row.id)));
    }
    this.list = rows.map((row) => row.id);
    this.#stack();
    this.#index();
  }

  #stack() {
    this.#stacks = new Map();
    if (!this.isStacking) return;
    const first = new Map(); // by group
    this.list = this.list.filter((id) => {
      const { group } = photos.get(id);
      if (group === undefined) return true;
      const top = first.get(group);
      if (top === undefined) {
        first.set(group, id);
        this.#stacks.set(id, [id]);
        return true;
      }
      this.#stacks.get(top).push(id);
      return false;
    });
  }

  #index() {
    this.#places = new Map(this.list.map((id, place) => [id, place]));
  }

  // Adds new photos and sorts those after the current one again.
  renew() {
    const known = new Set(this.isStacking ? this.list.flatMap((id) => this.stackOf(id)) : this.list);
    const fresh = [...photos.rows.values()].filter((row) => !known.has(row.id) && this.matches(row));
    const gone = this.list.some((id) => !photos.rows.has(id));
    if (gone || (fresh.length && (this.sort === "path" || this.isStacking))) return this.rebuild();
    if (!fresh.length && !["useful", "uncertainty"].includes(this.sort)) return undefined;
    const past = this.list.slice(0, this.place + 1);
    const ahead = this.list.slice(this.place + 1).map((id) => photos.get(id)).concat(fresh);
    const done = ahead.filter((row) => !this.matches(row)).map((row) => row.id);
    const open = ahead.filter((row) => this.matches(row));
    this.#sort(open);
    this.list = [...past, ...this.list, ...done];
    this.#index();
    this.#emit("list");
    return undefined;
  }

  show({ view, filter, sort, similar, search, only }) {
    if (similar) this.#similar = similar;
    const finds = search !== undefined && search !== this.search;
    if (finds) [this.search, this.#isFound] = [search, matcher(search)];
    if (only) this.#only = new Set(only);
    const changed = only || (filter && this.isPart) || (filter && filter !== this.filter) || (sort && (sort !== this.sort || similar)) || finds;
    const turned = view && view !== this.view && this.labelGroups;
    if (view) this.view = view;
    if (filter) [this.filter, this.#only] = [filter, only ? this.#only : null];
    if (sort) this.sort = sort;
    if (changed) this.rebuild({ keep: sort === undefined && filter === undefined && !finds && !only });
    else if (turned && this.list.length) this.rebuild();
    this.#emit("view");
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
    this.isThrough = false;
    this.#emit("cursor");
  }

  step(offset, options) {
    const last = this.list.length - 1;
    if (last >= 0) this.move(this.list[Math.min(Math.max(this.place + offset, 0), last)], options);
  }

  // Moves to the next photo to label, if there is one.
  advance() {
    this.selected.clear();
    this.#anchor = null;
    this.renew();
    const open = (id) => {
      const row = photos.get(id);
      return !isLabeled(row) && !row.rejected && !row.problem;
    };
    const isNext = this.filter === "all" || this.filter.startsWith("label:") || this.filter === "labeled"
      ? () => true
      : this.filter === "unlabeled" ? open : (id) => this.matches(photos.get(id)) && !photos.pending.has(id);
    const after = this.list.slice(this.place + 1).find(isNext);
    const next = after ?? this.list.slice(0, Math.max(0, this.place)).find(isNext);
    this.isThrough = next === undefined;
    this.cursor = next ?? this.cursor;
    this.#emit("cursor");
    return after !== undefined;
  }

  // The photos that are probably next, to load them in advance.
  upcoming(count) {
    const after = this.list.slice(this.place + 1, this.place + 2);
    if (!["useful", "uncertainty"].includes(this.sort)) return this.list.slice(this.place + 1, this.place + 1 + count);
    // The list is sorted again before the next photo is chosen.
    const compare = SORTS.find(([name]) => name === this.sort)[2];
    const key = this.sort === "useful" ? "rank" : "uncertainty";
    const ahead = [];
    for (let place = this.place + 1; place < this.list.length; place += 1) {
      const row = photos.get(this.list[place]);
      if (row?.[key] !== undefined && this.matches(row)) ahead.push(row);
    }
    const likely = ahead.sort(compare).slice(0, count).map((row) => row.id);
    return [...new Set([...likely, ...after])];
  }

  // Draws the current photo again.
  redraw() {
    this.#emit("selection");
  }

  toggle(id) {
    this.#anchor = id;
    if (!this.selected.delete(id)) this.selected.add(id);
    this.#emit("selection");
  }

  select(ids) {
    this.selected = new Set(ids);
    this.#emit("selection");
  }

  #emit(what) {
    this.dispatchEvent(new CustomEvent("change", { detail: what }));
  }
}

export const queue = new Queue();
