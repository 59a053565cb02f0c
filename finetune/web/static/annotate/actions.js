// Actions on photos. Each is about the photos that are on screen when its key is pressed.

import { get, post, RequestError } from "./api.js";
import { t, tn } from "./i18n.js";
import { outbox } from "./outbox.js";
import { suggestionOf, isLabeled, photos } from "./photos.js";
import { queue } from "./queue.js";
import { sight } from "./sight.js";
import { toast } from "./toast.js";

const ANSWER_MS = 100; // the next photo waits so long for the server

// Decides about the photo on screen. A key that was pressed before it appeared is held.
function decide(run, { held = false } = {}) {
  if (queue.cursor !== null && !queue.selected.size && !sight.hasSeen(queue.cursor)) {
    sight.keep(() => decide(run, { held: true }));
    return null;
  }
  const count = held ? 0 : sight.drop();
  if (count) toast(tn("{count} key was dropped.", "{count} keys were dropped.", count), { also: true });
  return run();
}

// Sends a decision and goes on to the next photo, at the latest when the answer takes long.
async function decideAndGoOn(ids, name, args = {}, goOn = () => queue.advance()) {
  if (!ids.length) return;
  const sent = outbox.add({ ids, decides: true, name, args });
  sight.leave();
  const late = new Promise((resolve) => { setTimeout(() => resolve("late"), ANSWER_MS); });
  const answer = await Promise.race([sent, late]);
  sight.arrive();
  if (answer) goOn();
  else queue.redraw(); // refused
}

outbox.addEventListener("refused", ({ detail: { job, error } }) => {
  if (error.status === 409) {
    photos.update(error.body);
    queue.renew();
    const [id] = job.ids.filter((one) => queue.placeOf(one) >= 0);
    if (id) queue.move(id);
  }
  const stay = error.status === 0 || error.status === 401;
  if (!outbox.heldCount) toast(error.message, { bad: true, stay });
});

const capitalized = (text) => `${text[0].toUpperCase()}${text.slice(1)}`;

async function send(path, body) {
  const response = await post(path, body);
  outbox.saved(response.rows);
  photos.update(response);
  dispatchEvent(new Event("acted"));
  toast(capitalized(response.description));
  return response;
}

// `ids`: those of the job that the action is about.
async function act(kind, job, extra = {}, ids = job.ids) {
  if (!ids.length) return null;
  const seen = Object.fromEntries(ids.map((id) => [id, job.versions[id]]));
  if (extra.labels?.length) dispatchEvent(new CustomEvent("labels-used", { detail: extra.labels }));
  return send("/api/act", { kind, photos: seen, ...extra });
}

const isRejected = (id) => photos.get(id).rejected;

// What is sent, by name. Toggles look at the photos when their turn has come.
outbox.works = {
  label: (job, { labels }) => act("label", job, { labels }),
  accept: (job, { choices }) => act("accept", job, { choices }),
  resolve: (job, { labels }) => act("resolve", job, { labels }),
  confirm: (job) => act("confirm", job),
  clear: (job) => act("clear", job),
  crop: (job, { crop: box }) => act("crop", job, { crop: box }),
  toggleLabel: (job, { name }) => {
    const everywhere = job.ids.every((id) => photos.get(id).labels?.includes(name));
    return act(everywhere ? "remove" : "add", job, { labels: [name] });
  },
  flag: (job) => act(job.ids.every((id) => photos.get(id).flag) ? "unflag" : "flag", job),
  stars: (job, { id, by }) => {
    const before = photos.get(id)?.stars ?? 0;
    const number = Math.min(Math.max(before + by, 0), 5);
    return number === before ? null : act("stars", job, { stars: number });
  },
  reject: (job) => act(job.ids.every(isRejected) ? "restore" : "reject", job),
  keep: (job, { keeper }) => {
    const undoes = job.ids.every((id) => Boolean(isRejected(id)) === (id !== keeper));
    return undoes ? act("restore", job) : act("keep", job, { keeper });
  },
  together: async (job) => { if (await act("together", job)) queue.select([]); },
  apart: async (job) => { if (await act("apart", job)) queue.select([]); },
};

// Renames, merges, deletes, orders, pins or colors labels.
export const editLabel = (edit) => outbox.add({ work: () => send("/api/labels", edit) });

const usable = (ids) => ids.filter((id) => photos.get(id) && !photos.get(id).problem);

export const label = (labels) =>
  decide(() => decideAndGoOn(usable(queue.labelTargets), "label", { labels }));

// Adds a label to the present ones, or removes it if all photos have it.
export const toggleLabel = (name) =>
  decide(() => outbox.add({ ids: usable(queue.targets), name: "toggleLabel", args: { name } }));

export const clear = () =>
  decide(() => outbox.add({ ids: usable(queue.targets), name: "clear" }));

const confirmLabels = () =>
  decideAndGoOn(usable(queue.targets).filter((id) => isLabeled(photos.get(id))), "confirm");

// Confirms the labels as they are, although they look wrong.
export const confirm = () => decide(confirmLabels);

function acceptSuggestions(ids) {
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
    return null;
  }
  return decideAndGoOn(chosen, "accept", { choices });
}

export const accept = () => decide(() => acceptSuggestions(usable(queue.labelTargets)));

// Accepts the suggestion, or confirms the label that a photo has. `isChanging()`: whether the
// suggestion has just changed.
export const acceptOrConfirm = (isChanging) =>
  decide(() => {
    const row = photos.get(queue.cursor);
    if (queue.selected.size < 2 && row && isLabeled(row)) return confirmLabels();
    if (queue.selected.size < 2 && isChanging()) {
      toast(t("The suggestion has just changed. Check it, then press Enter."));
      return null;
    }
    return acceptSuggestions(usable(queue.labelTargets));
  });

// Labels exactly these photos, by id; "" is none of the labels. Goes on with `next`, or an unlabeled
// photo.
export const acceptAll = (wanted, next) => {
  const chosen = usable(Object.keys(wanted));
  const choices = Object.fromEntries(chosen.map((id) => [id, wanted[id]]));
  return decideAndGoOn(chosen, "accept", { choices }, () => {
    if (next && queue.placeOf(next) >= 0) queue.move(next);
    else if (isLabeled(photos.get(queue.cursor) ?? {})) queue.advance();
    else queue.redraw();
  });
};

export const flag = () => decide(() => outbox.add({ ids: queue.targets, name: "flag" }));

export const stars = (by) =>
  decide(() => outbox.add({ ids: usable(queue.targets), name: "stars", args: { id: queue.cursor, by } }));

export const reject = (chosen = null) => {
  if (chosen) return outbox.add({ ids: chosen, name: "reject" });
  return decide(() => {
    const ids = queue.targets;
    return ids.every(isRejected) ? outbox.add({ ids, name: "reject" }) : decideAndGoOn(ids, "reject");
  });
};

export const crop = (id, box) => outbox.add({ ids: [id], name: "crop", args: { crop: box } });

function keepOne(keeper, ids) {
  if (ids.length < 2) {
    toast(t("This photo has no near-duplicates."));
    return null;
  }
  return outbox.add({ ids, name: "keep", args: { keeper } });
}

// Keeps one photo of a group, and rejects the others.
export const keep = (keeper = null, among = null) =>
  keeper ? keepOne(keeper, among) : decide(() => keepOne(queue.cursor, photos.group(photos.get(queue.cursor)?.group)));

// Puts the selected photos into one group of near-duplicates.
export function together() {
  const ids = usable(queue.targets);
  if (ids.length < 2) {
    toast(t("Select two photos or more to put them into one group."));
    return;
  }
  outbox.add({ ids, name: "together" });
}

// Takes the photo, or each selected one, out of its group.
export const apart = () =>
  decide(() => {
    const ids = usable(queue.selected.size ? [...queue.selected] : [queue.cursor]);
    if (!ids.some((id) => photos.get(id).group !== undefined)) {
      toast(t("This photo has no near-duplicates."));
      return null;
    }
    return outbox.add({ ids, name: "apart" });
  });

export const resolve = (conflict, choice) =>
  decide(() => decideAndGoOn(conflict.ids, "resolve", { labels: choice.labels }));

const replay = (path, key, done, nothing) => () => {
  sight.leave(); // another photo will be shown
  const work = async () => {
    if (!photos[key]) {
      toast(nothing);
      return;
    }
    const response = await post(path, { number: photos[key] });
    outbox.saved(response.rows);
    const changed = photos.update(response);
    dispatchEvent(new Event("acted"));
    toast(done(response.description));
    const shown = changed.find((id) => queue.placeOf(id) >= 0);
    sight.arrive();
    if (shown !== undefined) queue.move(shown);
  };
  return outbox.add({ work }).then(() => {
    sight.arrive();
    queue.redraw();
  });
};

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
