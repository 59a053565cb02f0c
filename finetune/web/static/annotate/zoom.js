// Zoom and pan of photos, up to the pixels of the original. Photos shown side by side, and those
// stepped through, share one magnification and place.

import { get, imageOf, RequestError } from "./api.js";
import { el } from "./dom.js";

const MOST = 4; // screen pixels per pixel of the photo
const WHEEL = 0.0015;

// `level`: screen pixels per pixel of the photo; null fits the photo into its frame.
const zoom = { level: null, center: [0.5, 0.5] };
let mounted = []; // {frame, holder, row}
const pointers = new Map(); // places of the fingers and buttons that are down

export const zoomed = () => zoom.level !== null;

// Whether the photo is being moved; it must not be drawn anew then.
export const dragging = () => pointers.size > 0 && zoomed();

export function reset() {
  zoom.level = null;
  place();
}

const fitLevel = ({ holder, row }) => (holder.offsetWidth * devicePixelRatio) / (row.width ?? holder.offsetWidth);

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);

// Moves the photos of all frames to the common place.
function place() {
  mounted = mounted.filter(({ frame }) => frame.isConnected);
  for (const item of mounted) {
    const { frame, holder, row } = item;
    frame.classList.toggle("zoomed", zoomed()); // which changes the room of the photo
    const scale = zoomed() ? Math.max(1, zoom.level / fitLevel(item)) : 1;
    const isZoomed = scale > 1.001;
    frame.dataset.center = zoom.center.map((value) => value.toFixed(4)).join(" ");
    frame.dataset.zoom = String(Math.round(fitLevel(item) * scale * 100));
    if (!isZoomed) {
      holder.style.transform = "";
      continue;
    }
    const shift = [holder.offsetWidth, holder.offsetHeight].map((length, axis) => {
      const room = axis === 0 ? frame.clientWidth : frame.clientHeight;
      const most = Math.max(0, (length * scale - room) / 2);
      return clamp((0.5 - zoom.center[axis]) * length * scale, -most, most);
    });
    holder.style.transform = `translate(${shift[0]}px, ${shift[1]}px) scale(${scale})`;
    loadFull(holder, row);
  }
}

function loadFull(holder, row) {
  if (holder.querySelector(".full")) return;
  const picture = el("img", { className: "full", alt: "", decoding: "async", draggable: false });
  picture.src = imageOf(row.id, "full");
  picture.addEventListener("load", () => picture.classList.add("loaded"));
  holder.append(picture);
}

// Magnifies so that the point under the pointer stays where it is.
function zoomAt(item, factor, clientX, clientY) {
  const fit = fitLevel(item);
  const before = Math.max(fit, zoom.level ?? fit);
  const after = clamp(before * factor, fit, Math.max(MOST, fit));
  const box = item.holder.getBoundingClientRect();
  const point = [(clientX - box.left) / box.width, (clientY - box.top) / box.height];
  const from = zoom.level === null ? [0.5, 0.5] : zoom.center;
  zoom.center = from.map((middle, axis) => clamp(point[axis] + ((middle - point[axis]) * before) / after, 0, 1));
  zoom.level = after <= fit * 1.001 ? null : after;
  place();
}

function pan(item, dx, dy) {
  const box = item.holder.getBoundingClientRect();
  zoom.center = [zoom.center[0] - dx / box.width, zoom.center[1] - dy / box.height].map((value) => clamp(value, 0, 1));
  place();
}

// Switches between the whole photo and the pixels of the original around the subject.
export async function toggle() {
  if (zoomed()) return reset();
  const item = mounted.find(({ frame }) => frame.isConnected);
  if (!item) return undefined;
  const { row } = item;
  zoom.level = Math.max(1, fitLevel(item) * 1.5);
  zoom.center = row.crop ? row.crop.slice(0, 2) : [0.5, 0.5];
  place();
  if (!row.crop) {
    const before = zoom.center;
    const crop = await subjectOf(row.id);
    if (crop && zoom.center === before) zoom.center = crop.slice(0, 2);
    place();
  }
  return undefined;
}

async function subjectOf(id) {
  try {
    return (await get(`/api/subject-crop?photo=${id}`)).crop;
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    return null;
  }
}

export function panBy(dx, dy) {
  const item = mounted.find(({ frame }) => frame.isConnected);
  if (item) pan(item, -dx * item.frame.clientWidth * 0.2, -dy * item.frame.clientHeight * 0.2);
}

// Makes the photo in a frame zoomable by wheel, pinch, drag and double click.
export function mount(frame, holder, row) {
  const item = { frame, holder, row };
  mounted.push(item);
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoomAt(item, Math.exp(-event.deltaY * WHEEL * (event.deltaMode === 1 ? 30 : 1)), event.clientX, event.clientY);
  }, { passive: false });
  frame.addEventListener("dblclick", (event) => {
    if (zoomed()) reset();
    else zoomAt(item, Math.max(1 / fitLevel(item), 1.5), event.clientX, event.clientY);
  });
  frame.addEventListener("pointerdown", (event) => {
    if (event.target.closest("button, .crop-box:not([aria-hidden])")) return;
    pointers.set(event.pointerId, [event.clientX, event.clientY]);
    if (zoomed() || pointers.size > 1) frame.setPointerCapture(event.pointerId);
  });
  frame.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = [event.clientX, event.clientY];
    if (pointers.size === 2) {
      const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, point]) => point);
      const distance = (a, b) => Math.hypot(a[0] - b[0], a[1] - b[1]);
      zoomAt(item, distance(now, other) / Math.max(1, distance(before, other)), (now[0] + other[0]) / 2, (now[1] + other[1]) / 2);
    } else if (zoomed()) {
      pan(item, now[0] - before[0], now[1] - before[1]);
    }
    pointers.set(event.pointerId, now);
  });
  requestAnimationFrame(place);
}

for (const type of ["pointerup", "pointercancel"]) {
  document.addEventListener(type, (event) => pointers.delete(event.pointerId), true);
}

addEventListener("resize", place);
