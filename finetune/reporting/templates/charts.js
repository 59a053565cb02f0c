"use strict";
// Data and theme of the page, and plotly figures in that theme.

const data = JSON.parse(document.getElementById("data").textContent);

const themed = (() => {
  const probe = document.createElement("span");
  probe.hidden = true;
  document.body.append(probe);
  // plotly does not support CSS variables: let the browser compute their current values.
  const color = (value) => {
    probe.style.color = "";
    probe.style.color = value;
    return getComputedStyle(probe).color;
  };
  const resolve = (value) => {
    if (typeof value === "string") return value.startsWith("var(--") ? color(value) : value;
    if (Array.isArray(value)) return value.map(resolve);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, resolve(v)]));
    }
    return value;
  };
  return { color, resolve };
})();

// plotly renders some HTML in texts: escape it.
const chartText = (text) =>
  text.replace(/\s+/g, " ").replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");

const shorten = (text, most) => (text.length <= most ? text : "…" + text.slice(1 - most));

const percent = (share) => {
  if (share === null || share === undefined) return "–";
  const value = share * 100;
  if (value <= 0 || value >= 100) return `${Math.round(value)}\u202f%`;
  // Only exactly 0 and 1 become 0 % and 100 %.
  if (value < 0.1) return "<\u202f0.1\u202f%";
  if (value > 99.9) return ">\u202f99.9\u202f%";
  return `${value.toFixed(1)}\u202f%`;
};

const countPhotos = (count) => `${count.toLocaleString("en")} ${count === 1 ? "photo" : "photos"}`;

const drawings = new Map();

function draw(element, figure) {
  drawings.set(element, figure);
  const axis = {
    gridcolor: "var(--line)", linecolor: "var(--line)", zerolinecolor: "var(--line)",
    tickcolor: "var(--line)", automargin: true,
  };
  const given = figure.layout;
  const layout = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { t: given.legend ? 64 : 24, r: 28, b: 44, l: 60 },
    height: 320,
    hovermode: "closest",
    ...given,
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: "var(--text)", ...given.font },
    hoverlabel: { bgcolor: "var(--surface)", bordercolor: "var(--muted)", font: { color: "var(--text)" }, align: "left" },
    xaxis: { ...axis, ...given.xaxis },
    yaxis: { ...axis, ...given.yaxis },
  };
  const config = { displayModeBar: false, responsive: true, ...figure.config };
  const shown = themed.resolve({ data: figure.data, layout });
  return Plotly.react(element, shown.data, shown.layout, config);
}

function redrawAll() {
  for (const [element, figure] of drawings) draw(element, figure);
}

// Charts are drawn when they are scrolled near, so that long pages open at once.
const waiting = new Map();
const near = new IntersectionObserver((entries) => {
  for (const entry of entries) if (entry.isIntersecting) drawWaiting(entry.target);
}, { rootMargin: "600px" });

function drawWaiting(element) {
  const make = waiting.get(element);
  if (!make) return;
  waiting.delete(element);
  near.unobserve(element);
  draw(element, make());
}

function drawWhenNear(element, make) {
  waiting.set(element, make);
  near.observe(element);
}

for (const element of document.querySelectorAll("[data-chart]")) {
  const figure = data.charts[element.dataset.chart];
  if (figure) drawWhenNear(element, () => figure);
}

addEventListener("beforeprint", () => {
  for (const element of [...waiting.keys()]) drawWaiting(element);
  // Paper is narrower than the window that the charts were drawn for: scale them.
  for (const element of drawings.keys()) {
    for (const svg of element.querySelectorAll("svg.main-svg")) {
      const width = svg.width.baseVal.value, height = svg.height.baseVal.value;
      svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
      element.style.setProperty("--ratio", width / height);
      element.style.setProperty("--drawn", `${width}px`);
    }
  }
});

addEventListener("afterprint", () => {
  for (const svg of document.querySelectorAll("svg.main-svg[viewBox]")) svg.removeAttribute("viewBox");
});

const darkScheme = matchMedia("(prefers-color-scheme: dark)");
darkScheme.addEventListener("change", redrawAll);
document.getElementById("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : darkScheme.matches;
  root.dataset.theme = dark ? "light" : "dark";
  redrawAll();
});
