"use strict";
// What the report of several labels a photo has of its own: its galleries.

const galleryOf = (name) => document.querySelector(`[data-gallery="${name}"]`);
const members = Object.fromEntries(
  Object.entries(data.galleries).map(([name, places]) => [name, places.map((k) => photos[k])]));

for (const name of ["surest", "least_sure"]) {
  const list = members[name];
  fillGallery(galleryOf(name), list, (photo) => card(photo, { list }), name === "surest" ? 96 : PAGE);
}

const mistakes = galleryOf("mistakes");
if (mistakes) {
  const filter = document.querySelector('[data-filter="mistakes"]');
  const overlays = document.getElementById("overlays");
  const kinds = [["missed", "missed"], ["extra", "wrongly said"]];
  filter.append(element("option", { value: "" }, `every label (${members.mistakes.length})`));
  for (const [kind, words] of kinds) {
    const counts = new Map();
    for (const photo of members.mistakes) {
      for (const label of photo[kind]) counts.set(label, (counts.get(label) || 0) + 1);
    }
    const group = element("optgroup", { label: words });
    for (const [label, count] of [...counts].sort((a, b) => a[0] - b[0])) {
      group.append(element("option", { value: `${kind} ${label}` }, `${nameOf(label)} ${words} (${count})`));
    }
    if (counts.size) filter.append(group);
  }
  const show = () => {
    const [kind, label] = filter.value.split(" ");
    const list = members.mistakes.filter((photo) => !kind || photo[kind].includes(Number(label)));
    fillGallery(mistakes, list, (photo) => card(photo, { list, overlay: overlays?.checked }));
  };
  filter.addEventListener("change", show);
  overlays?.addEventListener("change", show);
  show();
}
