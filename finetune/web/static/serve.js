// Photos in, ranked labels out. Text from anywhere goes into the page as text, never as markup.

const byId = (id) => document.getElementById(id);
const explains = document.body.dataset.explains === "yes";
const SHOWN = 5;
const TOGETHER = 4;

const answers = byId("answers");
const drop = byId("drop");
const notice = byId("notice");
const waiting = [];
let running = 0;
let asked = 0;
let answered = 0;

function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

function say(text) {
  notice.textContent = text;
  notice.hidden = !text;
}

function count() {
  byId("tools").hidden = asked === 0;
  byId("tally").textContent =
    answered < asked ? `${answered} of ${asked} answered` : `${asked} ${asked === 1 ? "photo" : "photos"}`;
}

function add(files) {
  const photos = [...files].filter((file) => file.type.startsWith("image/") || /\.(hei[cf]|jpe?g|png|tiff?|webp|avif)$/i.test(file.name));
  say(photos.length < files.length ? "Files that are no photos were left out." : "");
  const newest = answers.firstChild;
  for (const file of photos) {
    const card = newCard(file);
    answers.insertBefore(card.element, newest);
    waiting.push(card);
  }
  asked += photos.length;
  count();
  next();
}

function newCard(file) {
  const element = make("li", "answer");
  const picture = make("div", "picture");
  const image = make("img");
  image.alt = "";
  const address = URL.createObjectURL(file);
  image.src = address;
  // A browser that cannot draw this kind of file still sends it.
  image.addEventListener("error", () => { image.hidden = true; });
  picture.append(image);
  const side = make("div");
  side.append(make("p", "name", file.name || "pasted photo"), make("p", "waiting", "…"));
  element.append(picture, side);
  return { element, picture, image, side, file, address, heats: new Map() };
}

function next() {
  while (running < TOGETHER && waiting.length) {
    running += 1;
    ask(waiting.shift()).finally(() => {
      running -= 1;
      answered += 1;
      count();
      next();
    });
  }
}

async function ask(card) {
  try {
    const response = await send("/v1/predict", card.file);
    const found = await response.json();
    if (response.ok) show(card, found[0]);
    else fail(card, found.error || `The server answered ${response.status}.`);
  } catch {
    fail(card, "The server cannot be reached.");
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
  await new Promise((done) => setTimeout(done, 1000 * Math.min(seconds, 10)));
  return send(address, file, tries - 1);
}

function fail(card, reason) {
  card.side.lastChild.replaceWith(make("p", "failed", reason));
}

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function show(card, answer) {
  const first = answer.ranked[0];
  const body = make("div");
  // Where a photo may have several labels, `labels` are those that reach their threshold.
  const named = answer.labels ? answer.labels.join(", ") || "None of these" : first.label;
  body.append(make("h2", "", named));
  if (answer.unknown) {
    body.append(make("p", "none", answer.labels
      ? "No label reaches its threshold."
      : "Perhaps none of these: it is unlike the photos that this model is sure of."));
  }
  const bars = make("div", "bars");
  answer.ranked.slice(0, SHOWN).forEach((item, rank) => bars.append(bar(card, item, rank)));
  body.append(bars);
  card.image.alt = answer.labels ? named : `${first.label}, ${percent(first.probability)}`;
  if (explains) {
    const where = make("button", "plain where", "Where was it seen?");
    where.type = "button";
    where.setAttribute("aria-pressed", "false");
    where.addEventListener("click", () => explain(card, first.label));
    card.picture.append(where);
    card.where = where;
  }
  card.side.lastChild.replaceWith(body);
}

function bar(card, item, rank) {
  const strong = item.predicted === undefined ? rank === 0 : item.predicted;
  const row = make(explains ? "button" : "div", strong ? "row likeliest" : "row");
  if (explains) {
    row.type = "button";
    row.title = `Where does it look like ${item.label}?`;
    row.setAttribute("aria-pressed", "false");
    row.dataset.label = item.label;
    row.addEventListener("click", () => explain(card, item.label));
  }
  const track = make("span", "track");
  const fill = make("span", "fill");
  fill.style.width = `${100 * item.probability}%`;
  track.append(fill);
  row.append(make("span", "label", item.label), make("span", "share", percent(item.probability)), track);
  return row;
}

async function explain(card, label) {
  const shown = card.shown === label ? null : label;
  card.shown = shown;
  for (const row of card.side.querySelectorAll("button.row")) {
    row.setAttribute("aria-pressed", String(row.dataset.label === shown));
  }
  card.where.textContent = shown === null ? "Where was it seen?" : "Show the photo";
  card.where.setAttribute("aria-pressed", String(shown !== null));
  if (shown === null) {
    card.image.src = card.address;
    card.image.hidden = false;
    return;
  }
  if (!card.heats.has(label)) {
    const response = await send(`/v1/explain?label=${encodeURIComponent(label)}`, card.file);
    if (!response.ok) {
      say("This photo cannot be explained just now.");
      return;
    }
    card.heats.set(label, URL.createObjectURL(await response.blob()));
  }
  if (card.shown === label) {
    card.image.src = card.heats.get(label);
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
  answers.replaceChildren();
  asked = answered = 0;
  say("");
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
    // Browsers hand out a camera only to https and to this machine's own addresses.
    say("The camera is not to be had here.");
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
