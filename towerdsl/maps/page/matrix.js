"use strict";
// All rows of a head at once: a row for each query that was kept, a column for each key.

const MATRIX = { margin: 16, most: 2048, cell: 28, font: "11.5px system-ui, 'DejaVu Sans', sans-serif" };

/** The weights of a head as colors, [height][width]; where there are more positions than pixels, the largest of them. */
function heatmap(map, batch, head, width, height, scaleOf) {
  const best = new Float32Array(width * height);
  const place = new Int16Array(width * height).fill(-1);
  const rows = map.stored.length;
  map.stored.forEach((query, r) => {
    const row = map.row(batch, head, query);
    const { keys, weights } = row;
    const scale = scaleOf(row);
    const start = Math.floor((r * height) / rows) * width;
    for (let e = 0; e < keys.length; e++) {
      const k = start + Math.floor((keys[e] * width) / map.keys.count);
      const size = Math.abs(weights[e]);
      if (place[k] < 0 || size > best[k]) {
        best[k] = size;
        place[k] = scale.at(weights[e]);
      }
    }
  });
  return place;
}

/** A small canvas with a heatmap on it. */
function heatCanvas(map, batch, head, width, height, view) {
  const canvas = make("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const places = heatmap(map, batch, head, width, height, (row) => view.scaleOf(map, head, row));
  const nothing = view.palette.pixels[map.signed ? 128 : 0];
  places.forEach((place, k) => (pixels[k] = place < 0 ? nothing : view.palette.pixels[place]));
  context.putImageData(image, 0, 0);
  return canvas;
}

class MatrixPanel extends Panel {
  constructor(map, events) {
    super(map.queries, "both", events);
    this.map = map;
  }

  arrange(view) {
    const { map, context } = this;
    const { margin, cell } = MATRIX;
    context.font = MATRIX.font;
    const longest = (side, positions) => Math.max(...positions.map((k) => context.measureText(this.text(side, k, view)).width));
    const some = (count) => Array.from({ length: Math.min(count, 300) }, (_, k) => k);
    const left = margin + longest(map.queries, some(map.stored.length).map((k) => map.stored[k])) + 8;
    const top = margin + longest(map.keys, some(map.keys.count)) + 8;
    let wide = Math.min(cell, (this.width - left - margin) / map.keys.count);
    let high = Math.min(cell, (this.height - top - margin) / map.stored.length);
    if (Math.max(wide, high) < 4 * Math.min(wide, high)) wide = high = Math.min(wide, high);
    Object.assign(this, { left, top, wide, high });
    return 0;
  }

  text(side, position, view) {
    return shorten(shown(side.label(position, view.batch) || `${position}`), 14);
  }

  paint(context, view) {
    const { map, left, top, wide, high } = this;
    const { batch, head, theme, query, key } = view;
    if (!map.ready) return;
    const name = [batch, head, view.scaleKind, view.dark].join(" ");
    if (this.drawn !== name) {
      this.heat = heatCanvas(map, batch, head, Math.min(map.keys.count, MATRIX.most), Math.min(map.stored.length, MATRIX.most), view);
      this.drawn = name;
    }
    const size = [wide * map.keys.count, high * map.stored.length];
    context.imageSmoothingEnabled = this.heat.width > size[0] * this.ratio;
    context.drawImage(this.heat, left, top, ...size);
    context.lineWidth = 1;
    context.strokeStyle = theme.line;
    context.strokeRect(left - 0.5, top - 0.5, size[0] + 1, size[1] + 1);
    const y = top + map.rowOf[query] * high;
    context.font = MATRIX.font;
    context.textBaseline = "middle";
    this.labels(context, view, map.stored.length, high, map.rowOf[query], (k) => {
      context.textAlign = "right";
      context.fillText(this.text(map.queries, map.stored[k], view), left - 6, top + (k + 0.5) * high);
    });
    this.labels(context, view, map.keys.count, wide, key, (k) => {
      context.save();
      context.translate(left + (k + 0.5) * wide, top - 6);
      context.rotate(-Math.PI / 2);
      context.textAlign = "left";
      context.fillText(this.text(map.keys, k, view), 0, 0);
      context.restore();
    });
    context.textAlign = "left";
    // around the row, not on it: it may be a pixel high
    this.frame(context, view, left - 1, y - 1.5, size[0] + 2, high + 3, "query");
    if (key >= 0) this.frame(context, view, left + key * wide - 1.5, y - 1.5, wide + 3, high + 3, "key");
  }

  /** As many labels as there is room for, and always that of the chosen one. */
  labels(context, view, count, room, chosen, write) {
    const every = Math.max(1, Math.ceil(13 / room));
    for (let k = 0; k < count; k += every) {
      if (chosen >= 0 && Math.abs(k - chosen) * room < 12) continue;
      context.fillStyle = view.theme.soft;
      write(k);
    }
    context.fillStyle = view.theme.accent;
    if (chosen >= 0) write(chosen);
  }

  hit(x, y) {
    const column = Math.floor((x - this.left) / this.wide);
    const row = Math.floor((y - this.top) / this.high);
    if (row < 0 || row >= this.map.stored.length || column >= this.map.keys.count) return {};
    return { query: this.map.stored[row], ...(column >= 0 && { key: column }) };
  }

  step(query, across, down) {
    const next = this.map.rowOf[query] + across + down;
    return this.map.stored[next] ?? query;
  }
}
