// Page of finetune serve: sends photos and shows ranked labels. Text is never parsed as HTML.

import { t, tn } from "./annotate/i18n.js";

const byId = (id) => document.getElementById(id);
const explains = document.body.dataset.explains === "yes";
const SHOWN = 5;
const CONCURRENT = 4;
const TABLE_FROM = 20; // photos from which the answers are shown as a table

const results = byId("results");
const drop = byId("drop");
const notice = byId("notice");
const waiting = [];
const cards = []; // all photos, the newest first
let view = null; // "cards" or "table" once a person has chosen
let running = 0;
let sent = 0;
let done = 0;

function el(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function showNotice(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

function count() {
  byId("tools").hidden = sent === 0;
  const reviewed = cards.filter((card) => card.correct !== undefined).length;
  byId("review").hidden = reviewed === 0;
  byId("review").textContent = t("Review list ({count})", { count: reviewed });
  showView();
  byId("tally").textContent =
    done < sent ? t("{done} of {sent} done", { done, sent }) : tn("{count} photo", "{count} photos", sent);
}

function add(files) {
  const photos = [...files].filter((file) => file.type.startsWith("image/") || /\.(hei[cf]|jpe?g|png|tiff?|webp|avif)$/i.test(file.name));
  showNotice(photos.length < files.length ? t("Files that are not photos were skipped.") : "");
  const added = photos.map(newCard);
  results.prepend(...added.map((card) => card.element));
  byId("rows").prepend(...added.map((card) => card.row));
  cards.unshift(...added);
  waiting.push(...added);
  sent += photos.length;
  count();
  next();
}

function newCard(file) {
  const element = el("li", "result");
  const picture = el("div", "picture");
  const image = el("img");
  image.alt = "";
  const address = URL.createObjectURL(file);
  image.src = address;
  // A file that the browser cannot display is sent nevertheless.
  image.addEventListener("error", () => previewFromServer(card), { once: true });
  picture.append(image);
  const side = el("div");
  side.append(el("p", "name", file.name || t("Pasted photo")), el("p", "waiting", "…"));
  element.append(picture, side);
  const row = el("tr");
  const small = el("img");
  small.alt = "";
  small.loading = "lazy";
  small.src = address;
  small.addEventListener("error", () => { small.hidden = true; }, { once: true });
  const holder = el("td");
  holder.append(small);
  const answer = el("td", "waiting", "…");
  row.append(holder, el("th", "name", file.name || t("Pasted photo")), answer, el("td", "share"), el("td"), el("td"));
  row.children[1].scope = "row";
  const card = { element, picture, image, small, row, side, file, address, heatmaps: new Map() };
  return card;
}

// Photos that the browser cannot display, such as HEIC, are shown as the server decodes them.
async function previewFromServer(card) {
  card.image.hidden = true;
  if (!card.file.size) return;
  try {
    const response = await send("/v1/preview", card.file);
    if (!response.ok) return;
    card.address = URL.createObjectURL(await response.blob());
    for (const image of [card.image, card.small]) {
      image.src = card.address;
      image.hidden = false;
    }
  } catch { /* the prediction says that the server cannot be reached */ }
}

function next() {
  while (running < CONCURRENT && waiting.length) {
    running += 1;
    predict(waiting.shift()).finally(() => {
      running -= 1;
      done += 1;
      count();
      next();
    });
  }
}

async function predict(card) {
  if (!card.file.size) return fail(card, t("The file is empty."));
  try {
    const response = await send("/v1/predict", card.file);
    const found = await response.json();
    if (response.ok) show(card, found[0]);
    else fail(card, found.error || t("The server responded with status {status}.", { status: response.status }));
  } catch {
    fail(card, t("finetune serve cannot be reached."));
  }
}

async function send(address, file, tries = 4) {
  const response = await fetch(address, {
    method: "POST",
    body: file,
    headers: { "Content-Type": "application/octet-stream" },
  });
  if (response.status !== 503 || tries === 0) return response;
  const seconds = Number(response.headers.get("Retry-After")) || 1;
  await new Promise((resolve) => setTimeout(resolve, 1000 * Math.min(seconds, 10)));
  return send(address, file, tries - 1);
}

function fail(card, reason) {
  card.failed = reason;
  card.side.lastChild.replaceWith(el("p", "failed", reason));
  card.row.children[2].replaceWith(el("td", "failed", reason));
}

// As in reports: only exactly 0 and 1 become 0 % and 100 %.
function percent(share) {
  const value = 100 * share;
  if (value <= 0 || value >= 100) return `${Math.round(value)}\u202f%`;
  if (value < 0.1) return "<\u202f0.1\u202f%";
  if (value > 99.9) return ">\u202f99.9\u202f%";
  return `${value.toFixed(1)}\u202f%`;
}

function show(card, prediction) {
  const first = prediction.ranked[0];
  card.prediction = prediction;
  const body = el("div");
  // With several labels a photo, `labels` are those that reach their threshold.
  const named = prediction.labels
    ? prediction.labels.join(", ") || t("No label")
    : {
        sure: first.label,
        unsure: prediction.ancestor?.label ?? t("Unsure: {label}?", { label: first.label }),
        unknown: t("Unknown"),
      }[prediction.status];
  body.append(el("h2", "", named));
  if (prediction.status !== "sure") body.append(el("p", "none", explanation(prediction)));
  const bars = el("div", "bars");
  prediction.ranked.slice(0, SHOWN).forEach((item, rank) => bars.append(bar(card, item, rank)));
  body.append(bars);
  card.image.alt = prediction.labels ? named : `${first.label}, ${percent(first.probability)}`;
  if (explains) {
    const toggle = el("button", "plain toggle", t("Show heatmap"));
    toggle.type = "button";
    toggle.setAttribute("aria-pressed", "false");
    toggle.addEventListener("click", () => explain(card, first.label));
    card.picture.append(toggle);
    card.toggle = toggle;
  }
  card.wrong = [wrongButton(card), wrongButton(card)];
  body.append(card.wrong[0]);
  card.side.lastChild.replaceWith(body);
  const [, , answer, share, status, wrong] = card.row.children;
  answer.className = "";
  answer.textContent = prediction.labels || prediction.status === "sure" ? named : first.label;
  share.textContent = percent(first.probability);
  status.textContent = { sure: t("sure"), unsure: t("unsure"), unknown: t("unknown") }[prediction.status] ?? "";
  status.className = `status ${prediction.status}`;
  wrong.append(card.wrong[1]);
}

// --- wrong answers: the review list stays in the page until it is downloaded

function wrongButton(card) {
  const button = el("button", "plain", t("Wrong?"));
  button.type = "button";
  button.addEventListener("click", () => {
    const field = el("label", "right-answer", `${t("Right label")} `);
    const input = el("input");
    input.setAttribute("list", "known-labels");
    input.value = card.correct || "";
    input.addEventListener("input", () => {
      card.correct = input.value.trim();
      count();
    });
    field.append(input);
    button.replaceWith(field);
    card.correct ??= "";
    count();
    input.focus();
  });
  return button;
}

function showView() {
  const table = (view || (sent >= TABLE_FROM ? "table" : "cards")) === "table";
  results.hidden = table;
  byId("table").hidden = !table || sent === 0;
  byId("view").textContent = table ? t("Show as cards") : t("Show as a table");
}

function cell(text) {
  // No spreadsheet runs a name as a formula; finetune reads it back without the apostrophe.
  const guarded = /^'*[=+\-@\t\r\n＝＋－＠]/.test(text) ? `'${text}` : text;
  const special = /[",\r\n]/;
  return special.test(guarded) ? `"${guarded.replaceAll("\"", "\"\"")}"` : guarded;
}

function download(name, rows) {
  const text = "\ufeff" + rows.map((row) => row.map((value) => cell(String(value))).join(",") + "\r\n").join("");
  const link = el("a");
  link.href = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

byId("view").addEventListener("click", () => {
  view = results.hidden ? "cards" : "table";
  showView();
});

byId("csv").addEventListener("click", () => {
  const rows = cards.filter((card) => card.prediction || card.failed).map((card) => {
    const { prediction } = card;
    if (!prediction) return [card.file.name, "failed", "", "", card.failed, ""];
    const label = prediction.labels ? prediction.labels.join("|") : prediction.ranked[0].label;
    return [card.file.name, prediction.status, label, prediction.ranked[0].probability, "", card.correct || ""];
  });
  download("predictions.csv", [["filename", "status", "label", "probability", "error", "correct_label"], ...rows]);
});

byId("review").addEventListener("click", () => {
  const rows = cards.filter((card) => card.correct !== undefined).map((card) => [card.file.name, card.correct]);
  download("review.csv", [["filename", "label"], ...rows]);
});

function explanation(prediction) {
  if (prediction.labels) return t("No label reaches its threshold.");
  if (prediction.ancestor) {
    const { level, probability } = prediction.ancestor;
    return t("Sure of the {level} ({share}), but of no label. The likeliest is first.", { level, share: percent(probability) });
  }
  return prediction.status === "unknown"
    ? t("Unlike anything learned.")
    : t("The first label is likeliest, but too often wrong at this probability.");
}

function bar(card, item, rank) {
  const strong = item.predicted === undefined ? rank === 0 : item.predicted;
  const row = el(explains ? "button" : "div", strong ? "row likeliest" : "row");
  if (explains) {
    row.type = "button";
    row.title = t("Show where it looks like {label}", { label: item.label });
    row.setAttribute("aria-pressed", "false");
    row.dataset.label = item.label;
    row.addEventListener("click", () => explain(card, item.label));
  }
  const track = el("span", "track");
  const fill = el("span", "fill");
  fill.style.width = `${100 * item.probability}%`;
  track.append(fill);
  row.append(el("span", "label", item.label), el("span", "share", percent(item.probability)), track);
  return row;
}

async function explain(card, label) {
  const shown = card.shown === label ? null : label;
  card.shown = shown;
  for (const row of card.side.querySelectorAll("button.row")) {
    row.setAttribute("aria-pressed", String(row.dataset.label === shown));
  }
  card.toggle.textContent = shown === null ? t("Show heatmap") : t("Show photo");
  card.toggle.setAttribute("aria-pressed", String(shown !== null));
  if (shown === null) {
    card.image.src = card.address;
    card.image.hidden = false;
    return;
  }
  if (!card.heatmaps.has(label)) {
    const response = await send(`/v1/explain?label=${encodeURIComponent(label)}`, card.file);
    if (!response.ok) {
      showNotice(t("No explanation for this photo right now."));
      return;
    }
    card.heatmaps.set(label, URL.createObjectURL(await response.blob()));
  }
  if (card.shown === label) {
    card.image.src = card.heatmaps.get(label);
    card.image.hidden = false;
  }
}

byId("files").addEventListener("change", (event) => {
  add(event.target.files);
  event.target.value = "";
});

for (const kind of ["dragenter", "dragover"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) drop.classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  add(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) add(event.clipboardData.files);
});

byId("clear").addEventListener("click", () => {
  waiting.length = cards.length = 0;
  results.replaceChildren();
  byId("rows").replaceChildren();
  view = null;
  sent = done = 0;
  showNotice("");
  count();
});

const viewfinder = byId("viewfinder");
const video = byId("video");

byId("camera").addEventListener("click", async () => {
  try {
    video.srcObject = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: 1920 } },
    });
  } catch {
    showNotice(t("The camera is not available. Browsers allow it only over HTTPS or on this computer."));
    return;
  }
  viewfinder.showModal();
  await video.play();
});

byId("shoot").addEventListener("click", () => {
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  canvas.toBlob((blob) => {
    if (blob) add([new File([blob], "camera.jpg", { type: "image/jpeg" })]);
  }, "image/jpeg", 0.95);
  viewfinder.close();
});

byId("stop").addEventListener("click", () => viewfinder.close());
viewfinder.addEventListener("close", () => {
  for (const track of video.srcObject ? video.srcObject.getTracks() : []) track.stop();
  video.srcObject = null;
});
