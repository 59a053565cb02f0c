// What a person does. Each waits for the catalog, one after the other, in the order of the keys.

import { get, post, Refused } from "./api.js";
import { count } from "./dom.js";
import { guessOf, isLabeled, photos } from "./photos.js";
import { queue } from "./queue.js";
import { toast } from "./toast.js";

let last = Promise.resolve();

// Runs after all that was asked for before, so that fast keys meet the photos they are meant for.
export function inTurn(work) {
  last = last.then(work).catch((error) => {
    if (!(error instanceof Refused)) {
      reportError(error); // a bug: shown in the console, and the next key works all the same
      return;
    }
    if (error.status === 409) {
      photos.take(error.body);
      queue.renew();
    }
    toast(error.message, { bad: true, stay: error.status === 0 || error.status === 401 });
  });
  return last;
}

async function act(kind, ids, extra = {}) {
  if (!ids.length) return null;
  const seen = Object.fromEntries(ids.map((id) => [id, photos.get(id).version ?? ""]));
  const answer = await post("/api/act", { kind, photos: seen, ...extra });
  photos.take(answer);
  dispatchEvent(new Event("acted"));
  toast(`${answer.did[0].toUpperCase()}${answer.did.slice(1)}`);
  return answer;
}

const usable = (ids) => ids.filter((id) => !photos.get(id).problem);

const onward = () => {
  queue.advance();
};

export const label = (labels) =>
  inTurn(async () => {
    if (await act("label", usable(queue.labelTargets), { labels })) onward();
  });

// Adds a label beside those that a photo has, or takes it off again.
export const toggleLabel = (name) =>
  inTurn(async () => {
    const ids = usable(queue.targets);
    const everywhere = ids.every((id) => photos.get(id).labels?.includes(name));
    await act(everywhere ? "remove" : "add", ids, { labels: [name] });
  });

export const clear = () => inTurn(() => act("clear", usable(queue.targets)));

async function acceptAll(ids) {
  const choices = {};
  // Near-duplicates get the suggestion of the photo that is looked at.
  const shared = queue.company.length ? guessOf(photos.get(queue.cursor)) : null;
  for (const id of ids) {
    const guess = shared ?? guessOf(photos.get(id));
    if (guess) choices[id] = guess.label;
  }
  const chosen = Object.keys(choices);
  if (!chosen.length) {
    toast("There is no suggestion yet. Label a photo or two of each kind first.");
    return;
  }
  if (await act("accept", chosen, { choices })) onward();
}

export const accept = () => inTurn(() => acceptAll(usable(queue.labelTargets)));

export const acceptThese = (name, ids) =>
  inTurn(async () => {
    const open = usable(ids).filter((id) => !isLabeled(photos.get(id)));
    if (open.length && (await act("label", open, { labels: [name] }))) onward();
  });

const toggle = (on, off, isOn) => () =>
  inTurn(async () => {
    const ids = queue.targets;
    const all = ids.every((id) => isOn(photos.get(id)));
    return act(all ? off : on, ids);
  });

export const flag = toggle("flag", "unflag", (row) => row.flag);

export const reject = () =>
  inTurn(async () => {
    const ids = queue.targets;
    const back = ids.every((id) => photos.get(id).rejected);
    if ((await act(back ? "restore" : "reject", ids)) && !back) onward();
  });

export const crop = (id, box) => inTurn(() => act("crop", [id], { crop: box }));

export const keep = () =>
  inTurn(async () => {
    const row = photos.get(queue.cursor);
    const ids = photos.group(row?.group);
    if (ids.length < 2) {
      toast("This photo has no near-duplicates.");
      return;
    }
    const back = ids.every((id) => id === row.id ? !photos.get(id).rejected : photos.get(id).rejected);
    await (back ? act("restore", ids) : act("keep", ids, { keeper: row.id }));
  });

export const together = () =>
  inTurn(async () => {
    const ids = queue.targets;
    if (ids.length < 2) toast("Select two photos or more that belong together.");
    else await act("group", ids);
  });

export const apart = () => inTurn(() => act("ungroup", queue.targets));

export const settle = (contradiction, choice) =>
  inTurn(async () => {
    if (await act("settle", contradiction.ids, { labels: choice.labels })) onward();
  });

const replay = (path, key, verb, nothing) => () =>
  inTurn(async () => {
    if (!photos[key]) {
      toast(nothing);
      return;
    }
    const answer = await post(path, { number: photos[key] });
    const changed = photos.take(answer);
    dispatchEvent(new Event("acted"));
    toast(`${verb}: ${answer.did}`);
    const shown = changed.find((id) => queue.placeOf(id) >= 0);
    if (shown !== undefined) queue.move(shown);
  });

export const undo = replay("/api/undo", "undo", "Undone", "There is nothing to undo.");
export const redo = replay("/api/redo", "redo", "Done again", "There is nothing to redo.");

export function selectGroup() {
  const row = photos.get(queue.cursor);
  const ids = photos.group(row?.group).filter((id) => !photos.get(id).rejected);
  if (ids.length < 2) {
    toast("This photo has no near-duplicates.");
    return;
  }
  const all = ids.every((id) => queue.selected.has(id)) && queue.selected.size === ids.length;
  queue.select(all ? [] : ids);
  if (!all) toast(`${count(ids.length, "near-duplicate")} selected`);
}

export async function sortBySimilarity() {
  try {
    const { ids } = await get(`/api/similar?photo=${queue.cursor}`);
    queue.show({ sort: "similar", similar: ids });
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    toast(error.message, { bad: true });
  }
}
