// Map of the photos with a place, drawn without tiles: meridians, parallels and dots.

import { get, RequestError } from "./api.js";
import { el } from "./dom.js";
import { showDialog } from "./help.js";
import { formatNumber, t, tn } from "./i18n.js";
import { isLabeled, photos } from "./photos.js";
import { queue } from "./queue.js";
import { toast } from "./toast.js";

const WIDTH = 860;
const HEIGHT = 520;
const CELL = 22; // photos closer than this share a dot
const STEPS = [30, 10, 5, 2, 1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001];
const SVG = "http://www.w3.org/2000/svg";

function draw(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

// Frame around all places, at least some 100 meters, in the ratio of the drawing.
function frameOf(places) {
  const [lats, lons] = [places.map(([, lat]) => lat), places.map(([, , lon]) => lon)];
  const middle = (values) => (Math.min(...values) + Math.max(...values)) / 2;
  const [lat, lon] = [middle(lats), middle(lons)];
  const squeeze = Math.max(0.05, Math.cos((lat * Math.PI) / 180)); // a degree of longitude is shorter there
  const tall = Math.max(0.002, (Math.max(...lats) - Math.min(...lats)) * 1.15, ((Math.max(...lons) - Math.min(...lons)) * 1.15 * squeeze * HEIGHT) / WIDTH);
  const wide = (tall * WIDTH) / HEIGHT / squeeze;
  return { x: (value) => ((value - lon) / wide + 0.5) * WIDTH, y: (value) => (0.5 - (value - lat) / tall) * HEIGHT, lat, lon, wide, tall };
}

function gridOf(frame) {
  const step = STEPS.find((size) => frame.tall / size >= 3) ?? STEPS.at(-1);
  const digits = Math.max(0, -Math.floor(Math.log10(step)));
  const nodes = [];
  for (let k = Math.ceil((frame.lat - frame.tall / 2) / step); k * step < frame.lat + frame.tall / 2; k += 1) {
    const y = frame.y(k * step);
    nodes.push(draw("line", { x1: 0, x2: WIDTH, y1: y, y2: y }), draw("text", { x: 4, y: y - 3 }, `${(k * step).toFixed(digits)}°`));
  }
  for (let k = Math.ceil((frame.lon - frame.wide / 2) / step); k * step < frame.lon + frame.wide / 2; k += 1) {
    const x = frame.x(k * step);
    nodes.push(draw("line", { x1: x, x2: x, y1: 0, y2: HEIGHT }), draw("text", { x: x + 3, y: HEIGHT - 4 }, `${(k * step).toFixed(digits)}°`));
  }
  return draw("g", { class: "graticule" }, ...nodes);
}

export async function showMap() {
  let places;
  try {
    ({ places } = await get("/api/places"));
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    toast(error.message, { bad: true });
    return;
  }
  places = places.filter(([id]) => photos.get(id));
  if (!places.length) {
    toast(t("No photo read so far has a place."));
    return;
  }
  const frame = frameOf(places);
  const dots = new Map();
  for (const [id, lat, lon] of places) {
    const key = `${Math.floor(frame.x(lon) / CELL)} ${Math.floor(frame.y(lat) / CELL)}`;
    if (!dots.has(key)) dots.set(key, { ids: [], x: frame.x(lon), y: frame.y(lat) });
    dots.get(key).ids.push(id);
  }
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "map", role: "group", "aria-label": t("Map") }, gridOf(frame));
  const box = showDialog(t("Map"), el("p", { className: "quiet" }, tn("{count} photo with a place. Choose a dot to see its photos.", "{count} photos with a place. Choose a dot to see its photos.", places.length)), svg);
  for (const { ids, x, y } of dots.values()) {
    const row = photos.get(ids[0]);
    const hue = isLabeled(row) && row.labels?.length ? photos.hueOf(row.labels[0]) : "200";
    const text = tn("{count} photo", "{count} photos", ids.length);
    const dot = draw(
      "g",
      { class: "dot", tabindex: "0", role: "button", "aria-label": text, transform: `translate(${x} ${y})` },
      draw("title", {}, text),
      draw("circle", { r: Math.min(20, 6 + 2 * Math.sqrt(ids.length)), fill: `hsl(${hue} 55% 45%)` }),
      draw("text", { "text-anchor": "middle", dy: 4 }, ids.length > 1 ? formatNumber(ids.length) : ""),
    );
    const open = () => {
      box.close();
      queue.show({ view: "grid", filter: "all", only: ids });
    };
    dot.addEventListener("click", open);
    dot.addEventListener("keydown", (event) => (event.key === "Enter" || event.key === " ") && open());
    svg.append(dot);
  }
}
