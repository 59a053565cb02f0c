// Decisions on their way to the server: one request at a time, in the order of the keys. Each is about
// the photos that were on screen when its key was pressed. After a refusal, those that have not been
// sent are held until the person goes on or drops them. Those are kept in the browser across a reload.

import { RequestError } from "./api.js";
import { photos } from "./photos.js";

// Refusals that say nothing about the decision itself: it is held, too.
const isUndecided = ({ status }) => status === 0 || status === 401 || status >= 500;

const KEPT = "finetune-unsent";

class Outbox extends EventTarget {
  works = {}; // by name: (job, args) => promise, for decisions that are kept across a reload
  #waiting = [];
  #held = [];
  #isSending = false;
  refusal = null; // {message, isLost}, while decisions are held

  get heldCount() {
    return this.#held.length;
  }

  get isEmpty() {
    return !this.#held.length && !this.#waiting.length;
  }

  // Does `works[name](job, args)`, or `work(job)`, when its turn has come. Returns a promise of its
  // result; null if it was refused. `decides`: whether the photos count as decided until the server
  // has answered.
  add({ ids = [], decides = false, name = null, args = {}, work = null }) {
    const versions = Object.fromEntries(ids.map((id) => [id, photos.get(id)?.version ?? ""]));
    const job = { ids, versions, decides, name, args, work };
    const sent = new Promise((resolve) => { job.resolve = resolve; });
    // A new decision about a photo replaces the one that is held.
    if (decides) this.#release((held) => held.decides && held.ids.some((id) => ids.includes(id)));
    this.#waiting.push(job);
    this.#note();
    this.#send();
    return sent;
  }

  // Sends what is held.
  goOn() {
    this.#waiting.push(...this.#held.splice(0));
    this.refusal = null;
    this.#note();
    this.#send();
  }

  // Drops what is held, and returns its photos.
  drop() {
    const ids = this.#held.flatMap((job) => job.ids);
    this.#release(() => true);
    this.refusal = null;
    this.#note();
    return ids;
  }

  #release(isOut) {
    for (const job of this.#held.filter(isOut)) job.resolve(null);
    this.#held = this.#held.filter((job) => !isOut(job));
    if (!this.#held.length) this.refusal = null;
  }

  async #send() {
    if (this.#isSending) return;
    this.#isSending = true;
    while (this.#waiting.length) {
      const [job] = this.#waiting;
      let result = null;
      try {
        result = await (job.name ? this.works[job.name](job, job.args) : job.work(job));
        this.#waiting.shift();
      } catch (error) {
        if (error instanceof RequestError) this.#refuse(job, error);
        else {
          this.#waiting.shift();
          reportError(error); // a bug: report it and continue
        }
      }
      this.#note();
      if (!this.#held.includes(job)) job.resolve(result);
    }
    this.#isSending = false;
  }

  #refuse(job, error) {
    const rest = this.#waiting.splice(0);
    if (!isUndecided(error)) rest.shift();
    this.#held.push(...rest);
    if (this.#held.length) this.refusal = { message: error.message, isLost: error.status === 0 };
    this.#note();
    this.dispatchEvent(new CustomEvent("refused", { detail: { job, error } }));
  }

  // What this window has changed, it has seen.
  saved(rows) {
    for (const job of [...this.#waiting, ...this.#held]) {
      for (const row of rows) if (row.id in job.versions) job.versions[row.id] = row.version ?? "";
    }
  }

  // Holds decisions that an earlier page of this tab had not sent, unless their photos have changed
  // since: then the server had received them, or another window has decided. To be called once, when
  // all photos are known.
  restore(message) {
    const kept = read().filter(({ ids, versions, name }) =>
      name in this.works && ids.every((id) => photos.get(id) && (photos.get(id).version ?? "") === versions[id]));
    this.#isRestored = true;
    if (kept.length) {
      this.#held.unshift(...kept.map((job) => ({ ...job, resolve: () => {} })));
      this.refusal = { message, isLost: false };
    }
    this.#note();
  }

  #isRestored = false;

  #note() {
    const jobs = [...this.#waiting, ...this.#held];
    if (this.#isRestored) write(jobs.filter((job) => job.name));
    photos.pending = new Set(jobs.filter((job) => job.decides).flatMap((job) => job.ids));
    this.dispatchEvent(new Event("change"));
  }
}

function read() {
  try {
    return JSON.parse(sessionStorage.getItem(KEPT)) ?? [];
  } catch {
    return []; // no storage, or not ours
  }
}

function write(jobs) {
  const kept = jobs.map(({ ids, versions, decides, name, args }) => ({ ids, versions, decides, name, args }));
  try {
    if (kept.length) sessionStorage.setItem(KEPT, JSON.stringify(kept));
    else sessionStorage.removeItem(KEPT);
  } catch {
    // No storage: the page asks before it is left.
  }
}

export const outbox = new Outbox();
