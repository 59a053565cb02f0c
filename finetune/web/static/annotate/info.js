// Dialog with what the camera wrote into a photo: camera, lens, exposure, time, place.

import { get, RequestError } from "./api.js";
import { el } from "./dom.js";
import { showDialog } from "./help.js";
import { t } from "./i18n.js";
import { fileName, photos } from "./photos.js";
import { queue } from "./queue.js";
import { toast } from "./toast.js";

let box = null;

export async function showInfo() {
  const row = photos.get(queue.cursor);
  if (!row || box?.open) return;
  try {
    const { entries } = await get(`/api/exif?photo=${row.id}`);
    box = showDialog(
      photos.annotator ? fileName(row) : row.path,
      entries.length
        ? el("dl", { className: "exif" }, entries.map(([name, value]) => [el("dt", {}, t(name)), el("dd", {}, value)]))
        : el("p", {}, t("The camera wrote nothing into this photo.")),
    );
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    toast(error.message, { bad: true });
  }
}
