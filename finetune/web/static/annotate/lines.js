// Rows of a grid, with a header before the first photo of each day.

// Returns the places of photos and headers in pixels.
//   dayOf: day of a photo by its id, or null for a grid without headers
export function lines(list, columns, { pitch, header, dayOf = null }) {
  const headers = []; // {day, top, place, count}
  if (dayOf) {
    let day = null;
    for (let place = 0; place < list.length; place += 1) {
      const found = dayOf(list[place]);
      if (found !== day) headers.push({ day: found, place, count: 0, top: 0 });
      day = found;
      headers[headers.length - 1].count += 1;
    }
  }
  const blocks = headers.length ? headers : [{ place: 0, count: list.length, top: 0 }];
  let top = 0;
  for (const block of blocks) {
    block.top = top;
    top += (headers.length ? header : 0) + Math.ceil(block.count / columns) * pitch;
  }
  const offset = headers.length ? header : 0;

  // The last block that starts at or before a value of `key`.
  function blockAt(key, value) {
    let [low, high] = [0, blocks.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (blocks[middle][key] <= value) low = middle;
      else high = middle - 1;
    }
    return blocks[low];
  }

  function placeAt(y) {
    const block = blockAt("top", y);
    const row = Math.max(0, Math.floor((y - block.top - offset) / pitch));
    return block.place + Math.min(row * columns, block.count);
  }

  return {
    headers,
    height: top,
    at(place) {
      const block = blockAt("place", place);
      const inside = place - block.place;
      return { row: block.top + offset + Math.floor(inside / columns) * pitch, column: inside % columns };
    },
    // Places of the photos between two heights: from `first` up to, but without, `end`.
    between(from, to) {
      return { first: placeAt(Math.max(0, from)), end: Math.min(list.length, placeAt(to) + columns) };
    },
  };
}
