// Page of finetune serve: sends photos and shows ranked labels. Text is never parsed as HTML.

const byId = (id) => document.getElementById(id);
const explains = document.body.dataset.explains === "yes";
const SHOWN = 5;
const CONCURRENT = 4;

const results = byId("results");
const drop = byId("drop");
const notice = byId("notice");
const waiting = [];
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
  byId("tally").textContent =
    done < sent ? `${done} of ${sent} done` : `${sent} ${sent === 1 ? "photo" : "photos"}`;
}

function add(files) {
  const photos = [...files].filter((file) => file.type.startsWith("image/") || /\.(hei[cf]|jpe?g|png|tiff?|webp|avif)$/i.test(file.name));
  showNotice(photos.length < files.length ? "Files that are not photos were skipped." : "");
  const newest = results.firstChild;
  for (const file of photos) {
    const card = newCard(file);
    results.insertBefore(card.element, newest);
    waiting.push(card);
  }
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
  image.addEventListener("error", () => { image.hidden = true; });
  picture.append(image);
  const side = el("div");
  side.append(el("p", "name", file.name || "Pasted photo"), el("p", "waiting", "…"));
  element.append(picture, side);
  return { element, picture, image, side, file, address, heatmaps: new Map() };
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
  try {
    const response = await send("/v1/predict", card.file);
    const found = await response.json();
    if (response.ok) show(card, found[0]);
    else fail(card, found.error || `The server responded with status ${response.status}.`);
  } catch {
    fail(card, "finetune serve cannot be reached.");
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
  card.side.lastChild.replaceWith(el("p", "failed", reason));
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)}%`;
}

function show(card, prediction) {
  const first = prediction.ranked[0];
  const body = el("div");
  // With several labels a photo, `labels` are those that reach their threshold.
  const named = prediction.labels
    ? prediction.labels.join(", ") || "No label"
    : {
        sure: first.label,
        unsure: prediction.ancestor?.label ?? `Unsure: ${first.label}?`,
        unknown: "Unknown",
      }[prediction.status];
  body.append(el("h2", "", named));
  if (prediction.status !== "sure") body.append(el("p", "none", explanation(prediction)));
  const bars = el("div", "bars");
  prediction.ranked.slice(0, SHOWN).forEach((item, rank) => bars.append(bar(card, item, rank)));
  body.append(bars);
  card.image.alt = prediction.labels ? named : `${first.label}, ${percent(first.probability)}`;
  if (explains) {
    const toggle = el("button", "plain toggle", "Show heatmap");
    toggle.type = "button";
    toggle.setAttribute("aria-pressed", "false");
    toggle.addEventListener("click", () => explain(card, first.label));
    card.picture.append(toggle);
    card.toggle = toggle;
  }
  card.side.lastChild.replaceWith(body);
}

function explanation(prediction) {
  if (prediction.labels) return "No label reaches its threshold.";
  if (prediction.ancestor) {
    const { level, probability } = prediction.ancestor;
    return `Sure of the ${level} (${percent(probability)}), but of no label. The likeliest is first.`;
  }
  return prediction.status === "unknown"
    ? "Unlike anything learned."
    : "The first label is likeliest, but too often wrong at this probability.";
}

function bar(card, item, rank) {
  const strong = item.predicted === undefined ? rank === 0 : item.predicted;
  const row = el(explains ? "button" : "div", strong ? "row likeliest" : "row");
  if (explains) {
    row.type = "button";
    row.title = `Show where it looks like ${item.label}`;
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
  card.toggle.textContent = shown === null ? "Show heatmap" : "Show photo";
  card.toggle.setAttribute("aria-pressed", String(shown !== null));
  if (shown === null) {
    card.image.src = card.address;
    card.image.hidden = false;
    return;
  }
  if (!card.heatmaps.has(label)) {
    const response = await send(`/v1/explain?label=${encodeURIComponent(label)}`, card.file);
    if (!response.ok) {
      showNotice("No explanation for this photo right now.");
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
  waiting.length = 0;
  results.replaceChildren();
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
    showNotice("The camera is not available. Browsers allow it only over HTTPS or on this computer.");
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
