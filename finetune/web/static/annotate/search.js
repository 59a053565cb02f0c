// Search: words for names, folders, dates, cameras, labels and stars; all of them must be found.

import { photos, suggestionOf } from "./photos.js";

const normalize = (text) => text.normalize("NFC").toLocaleLowerCase();

// Returns a function of a row. "2024-05 canon heron ***" finds herons of May 2024 with three stars.
export function matcher(text) {
  const words = normalize(text).split(/\s+/u).filter(Boolean);
  if (!words.length) return () => true;
  return (row) => {
    const found = normalize(textOf(row));
    return words.every((word) => (/^\*+$/.test(word) ? (row.stars ?? 0) >= word.length : found.includes(word)));
  };
}

function textOf(row) {
  // An annotator does not learn the label from the folder's name.
  const path = photos.annotator ? row.path.slice(row.path.lastIndexOf("/") + 1) : row.path;
  const labels = row.source ? (row.labels ?? []) : [suggestionOf(row)?.label ?? ""];
  return [path, row.taken, row.camera, ...labels].filter(Boolean).join("\n");
}
