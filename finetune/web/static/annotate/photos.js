// Photo index: rows as sent by the server; never changed locally.

import { t } from "./i18n.js";

const HUE_STEP = 137.508; // golden angle: hues of neighboring labels differ most

class Photos extends EventTarget {
  rows = new Map();
  labels = [];
  styles = {}; // pins and hues by label
  cohort = null; // photos whose labels are probably right: {number, ids, labels}
  undo = 0;
  redo = 0;
  actionCount = 0; // all actions
  suggestedCount = 0; // actions that the suggestions include
  clock = -1;
  jobs = { scan: { state: "waiting" }, suggestions: { state: "waiting" } };
  annotator = null;
  pending = new Set(); // ids of photos whose decision the server has not answered
  groupLabels = new Map(); // by group; emptied when a row changes
  #groups = null;

  get(id) {
    return this.rows.get(id);
  }

  // Updates the index from a response.
  update(response) {
    if (response.labels) [this.labels, this.styles] = [response.labels, response.styles];
    if ("cohort" in response) this.cohort = response.cohort;
    for (const id of response.gone ?? []) this.rows.delete(id);
    if ("undo" in response) [this.undo, this.redo] = [response.undo, response.redo];
    if ("clock" in response) this.clock = response.clock;
    if ("annotator" in response) this.annotator = response.annotator;
    if ("suggestedCount" in response) {
      [this.actionCount, this.suggestedCount] = [response.actionCount, response.suggestedCount];
    }
    if (response.jobs) this.jobs = response.jobs;
    const changed = [];
    for (const row of response.rows ?? []) {
      this.rows.set(row.id, row);
      changed.push(row.id);
    }
    if (changed.length || response.gone?.length) {
      this.#groups = null;
      this.groupLabels.clear();
    }
    this.dispatchEvent(
      new CustomEvent("change", { detail: { changed } }),
    );
    return changed;
  }

  // Ids of a near-duplicate group, sorted by path.
  group(key) {
    if (key === undefined) return [];
    if (this.#groups === null) {
      this.#groups = new Map();
      for (const row of this.rows.values()) {
        if (row.group === undefined) continue;
        if (!this.#groups.has(row.group)) this.#groups.set(row.group, []);
        this.#groups.get(row.group).push(row.id);
      }
    }
    return this.#groups.get(key) ?? [];
  }

  counts() {
    const counts = new Map(this.labels.map((label) => [label, 0]));
    let labeled = 0;
    for (const row of this.rows.values()) {
      if (row.problem || row.rejected) continue;
      if (row.source) labeled += 1; // and saved
      for (const label of row.labels ?? []) counts.set(label, (counts.get(label) ?? 0) + 1);
    }
    return { counts, labeled };
  }

  hueOf(label) {
    const chosen = this.styles[label]?.hue;
    if (chosen !== undefined && chosen !== null) return String(chosen);
    const place = this.labels.indexOf(label);
    return String(((place < 0 ? 0 : place) * HUE_STEP + 155) % 360);
  }
}

export const photos = new Photos();

export const isLabeled = (row) => Boolean(row.source) || photos.pending.has(row.id);

export const labelText = (row) =>
  row.labels?.length ? row.labels.join(" + ") : row.source ? t("none of the labels") : "";

// The likeliest label; "" for none of them. `share` is calibrated, or undefined if unknown.
export const suggestionOf = (row) =>
  row.ranked?.length ? { label: row.ranked[0][0], probability: row.ranked[0][1], share: row.share } : null;

export const nameOf = (label) => label || t("none of the labels");

export const fileName = (row) => row.path.slice(row.path.lastIndexOf("/") + 1);

export const folderName = (row) => row.path.slice(0, Math.max(0, row.path.lastIndexOf("/")));

// Distinct labels in a near-duplicate group; more than one is a conflict.
export function groupConflict(key) {
  const known = photos.groupLabels.get(key);
  if (known) return known;
  const found = new Map();
  for (const id of photos.group(key)) {
    const row = photos.get(id);
    if (row.rejected || !row.labels?.length) continue;
    const text = labelText(row);
    if (!found.has(text)) found.set(text, { labels: row.labels, id });
  }
  const choices = [...found.values()];
  photos.groupLabels.set(key, choices);
  return choices;
}

// Choices where annotators disagree or near-duplicates have different labels, or null.
export function conflict(row) {
  const votes = Object.entries(row.votes ?? {});
  if (votes.length > 1 && !row.resolved) {
    const choices = new Map();
    for (const [who, labels] of votes) {
      const text = labels.join(" + ");
      if (!choices.has(text)) choices.set(text, { labels, id: row.id, who: [] });
      choices.get(text).who.push(who);
    }
    if (choices.size > 1) return { kind: "votes", ids: [row.id], choices: [...choices.values()] };
  }
  const labels = row.group === undefined ? [] : groupConflict(row.group);
  if (labels.length > 1) {
    return { kind: "group", ids: photos.group(row.group).filter((id) => !photos.get(id).rejected), choices: labels };
  }
  return null;
}
