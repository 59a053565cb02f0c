// Actions on photos, sent to the server one at a time in the order of the keys.

import { get, post, RequestError } from "./api.js";
import { t, tn } from "./i18n.js";
import { suggestionOf, isLabeled, photos } from "./photos.js";
import { queue } from "./queue.js";
import { toast } from "./toast.js";

let last = Promise.resolve();
let refusals = 0;

// Waits for earlier actions, so that each key applies to the photo that was shown. After a refusal,
// actions of keys pressed before it was shown are dropped: they were meant for other photos.
export function enqueue(work) {
  const before = refusals;
  last = last.then(() => (before === refusals ? work() : dropped())).catch((error) => {
    if (!(error instanceof RequestError)) {
      reportError(error); // a bug: report it and continue
      return;
    }
    refusals += 1;
    if (error.status === 409) {
      photos.update(error.body);
      queue.renew();
    }
    refused = { message: error.message, keys: 0, stay: error.status === 0 || error.status === 401 };
    toast(refused.message, { bad: true, stay: refused.stay });
  });
  return last;
}

let refused = null; // the latest refusal, and the number of keys dropped after it

function dropped() {
  refused.keys += 1;
  const rest = tn("{count} key pressed since was not used.", "{count} keys pressed since were not used.", refused.keys);
  toast(`${refused.message} ${rest}`, { bad: true, stay: refused.stay });
}

const capitalized = (text) => `${text[0].toUpperCase()}${text.slice(1)}`;

async function send(path, body) {
  const response = await post(path, body);
  photos.update(response);
  dispatchEvent(new Event("acted"));
  toast(capitalized(response.description));
  return response;
}

async function act(kind, ids, extra = {}) {
  if (!ids.length) return null;
  const seen = Object.fromEntries(ids.map((id) => [id, photos.get(id).version ?? ""]));
  if (extra.labels?.length) dispatchEvent(new CustomEvent("labels-used", { detail: extra.labels }));
  return send("/api/act", { kind, photos: seen, ...extra });
}

// Renames, merges, deletes, orders, pins or colors labels.
export const editLabel = (edit) => enqueue(() => send("/api/labels", edit));

const usable = (ids) => ids.filter((id) => photos.get(id) && !photos.get(id).problem);

export const label = (labels) =>
  enqueue(async () => {
    if (await act("label", usable(queue.labelTargets), { labels })) queue.advance();
  });

// Adds a label to the present ones, or removes it if all photos have it.
export const toggleLabel = (name) =>
  enqueue(async () => {
    const ids = usable(queue.targets);
    const everywhere = ids.every((id) => photos.get(id).labels?.includes(name));
    await act(everywhere ? "remove" : "add", ids, { labels: [name] });
  });

export const clear = () => enqueue(() => act("clear", usable(queue.targets)));

// Confirms the labels as they are, although they look wrong.
export const confirm = () =>
  enqueue(async () => {
    if (await act("confirm", usable(queue.targets).filter((id) => isLabeled(photos.get(id))))) queue.advance();
  });

async function acceptSuggestions(ids) {
  const choices = {};
  // Near-duplicates get the suggestion of the current photo.
  const shared = queue.groupTargets.length ? suggestionOf(photos.get(queue.cursor)) : null;
  for (const id of ids) {
    const suggestion = shared ?? suggestionOf(photos.get(id));
    if (suggestion) choices[id] = suggestion.label;
  }
  const chosen = Object.keys(choices);
  if (!chosen.length) {
    toast(t("No suggestions yet. Label one or two photos of each kind first."));
    return;
  }
  if (await act("accept", chosen, { choices })) queue.advance();
}

export const accept = () => enqueue(() => acceptSuggestions(usable(queue.labelTargets)));

// Labels exactly these photos; "" is none of the labels. Goes on with `next`, or an unlabeled photo.
export const labelAll = (name, ids, next) =>
  enqueue(async () => {
    const choices = Object.fromEntries(usable(ids).map((id) => [id, name]));
    if (!(await act("accept", Object.keys(choices), { choices }))) return;
    if (next && queue.placeOf(next) >= 0) queue.move(next);
    else if (isLabeled(photos.get(queue.cursor) ?? {})) queue.advance();
  });

const toggle = (on, off, isPressed) => () =>
  enqueue(async () => {
    const ids = queue.targets;
    const all = ids.every((id) => isPressed(photos.get(id)));
    return act(all ? off : on, ids);
  });

export const flag = toggle("flag", "unflag", (row) => row.flag);

export const stars = (by) =>
  enqueue(() => {
    const before = photos.get(queue.cursor)?.stars ?? 0;
    const number = Math.min(Math.max(before + by, 0), 5);
    return number === before ? null : act("stars", usable(queue.targets), { stars: number });
  });

export const reject = (ids = null) =>
  enqueue(async () => {
    const chosen = ids ?? queue.targets;
    const undoes = chosen.every((id) => photos.get(id).rejected);
    if ((await act(undoes ? "restore" : "reject", chosen)) && !undoes && !ids) queue.advance();
  });

export const crop = (id, box) => enqueue(() => act("crop", [id], { crop: box }));

// Keeps one photo of a group, and rejects the others.
export const keep = (keeper = queue.cursor, among = null) =>
  enqueue(async () => {
    const row = photos.get(keeper);
    const ids = among ?? photos.group(row?.group);
    if (ids.length < 2) {
      toast(t("This photo has no near-duplicates."));
      return;
    }
    const undoes = ids.every((id) => id === row.id ? !photos.get(id).rejected : photos.get(id).rejected);
    await (undoes ? act("restore", ids) : act("keep", ids, { keeper: row.id }));
  });

// Puts the selected photos into one group of near-duplicates.
export const together = () =>
  enqueue(async () => {
    const ids = usable(queue.targets);
    if (ids.length < 2) {
      toast(t("Select two photos or more to put them into one group."));
      return;
    }
    if (await act("together", ids)) queue.select([]);
  });

// Takes the photo, or each selected one, out of its group.
export const apart = () =>
  enqueue(async () => {
    const ids = usable(queue.selected.size ? [...queue.selected] : [queue.cursor]);
    if (!ids.some((id) => photos.get(id).group !== undefined)) {
      toast(t("This photo has no near-duplicates."));
      return;
    }
    if (await act("apart", ids)) queue.select([]);
  });

export const resolve = (conflict, choice) =>
  enqueue(async () => {
    if (await act("resolve", conflict.ids, { labels: choice.labels })) queue.advance();
  });

const replay = (path, key, done, nothing) => () =>
  enqueue(async () => {
    if (!photos[key]) {
      toast(nothing);
      return;
    }
    const response = await post(path, { number: photos[key] });
    const changed = photos.update(response);
    dispatchEvent(new Event("acted"));
    toast(done(response.description));
    const shown = changed.find((id) => queue.placeOf(id) >= 0);
    if (shown !== undefined) queue.move(shown);
  });

export const undo = replay("/api/undo", "undo", (what) => t("Undone: {what}", { what }), t("Nothing to undo."));
export const redo = replay("/api/redo", "redo", (what) => t("Redone: {what}", { what }), t("Nothing to redo."));

export function selectGroup() {
  const row = photos.get(queue.cursor);
  const ids = photos.group(row?.group).filter((id) => !photos.get(id).rejected);
  if (ids.length < 2) {
    toast(t("This photo has no near-duplicates."));
    return;
  }
  const all = ids.every((id) => queue.selected.has(id)) && queue.selected.size === ids.length;
  queue.select(all ? [] : ids);
  if (!all) toast(tn("{count} near-duplicate selected", "{count} near-duplicates selected", ids.length));
}

export async function sortBySimilarity() {
  try {
    const { ids } = await get(`/api/similar?photo=${queue.cursor}`);
    queue.show({ sort: "similar", similar: ids });
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    toast(error.message, { bad: error.status !== 409 });
  }
}
