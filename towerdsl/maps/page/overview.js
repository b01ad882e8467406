"use strict";
// Small maps of all layers and heads: whole maps, or what the chosen query takes in each.

const SMALL = { label: 8, least: 16, most: 64, gap: 4, head: 18, font: "11.5px system-ui, 'DejaVu Sans', sans-serif" };

class Overview {
  constructor(events) {
    this.events = events;
    this.canvas = document.getElementById("overview-canvas");
    this.scroll = document.getElementById("overview-scroll");
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.names = short(maps.map((map) => map.path), maps.map((map) => map.call));
    this.heads = Math.max(...maps.map((map) => map.heads.length));
    this.first = this.heads > 1 ? -1 : 0; // the mean stands before the heads
    this.cache = new Map();
    this.canvas.setAttribute("aria-label", "Small maps of all layers and heads; PageUp, PageDown and brackets move between them");
    this.canvas.addEventListener("pointermove", (event) => events.tip(this.words(this.hit(event)), event));
    this.canvas.addEventListener("pointerleave", () => events.tip("", null));
    this.canvas.addEventListener("click", (event) => {
      const found = this.hit(event);
      if (found) events.choose(found);
    });
  }

  /** Draw all that is loaded; what takes long is left for later frames. */
  draw(view) {
    clearTimeout(this.later);
    this.view = view;
    const { context } = this;
    const width = this.scroll.clientWidth;
    context.font = SMALL.font;
    this.left = Math.min(width / 3, Math.ceil(Math.max(...this.names.map((name) => context.measureText(name).width))) + SMALL.label);
    const columns = this.heads - this.first;
    this.size = Math.max(SMALL.least, Math.min(SMALL.most, Math.floor((width - this.left) / columns)));
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.ceil(this.left + columns * this.size), SMALL.head + maps.length * this.size + 2];
    if (this.canvas.width !== w * ratio || this.canvas.height !== h * ratio) {
      [this.canvas.width, this.canvas.height] = [w * ratio, h * ratio];
      [this.canvas.style.width, this.canvas.style.height] = [`${w}px`, `${h}px`];
    }
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = view.theme.ground;
    context.fillRect(0, 0, w, h);
    context.font = SMALL.font;
    context.fillStyle = view.theme.soft;
    context.textBaseline = "middle";
    context.textAlign = "center";
    for (let head = this.first; head < this.heads; head++) {
      context.fillText(head < 0 ? (this.size > 30 ? "mean" : "ø") : `${head}`, this.x(head) + this.size / 2, SMALL.head / 2);
    }
    context.textAlign = "left";
    this.names.forEach((name, k) => {
      context.fillStyle = maps[k] === view.map ? view.theme.accent : view.theme.soft;
      context.fillText(name, 0, this.y(k) + this.size / 2, this.left - 4);
    });
    if (this.seen !== view.map) {
      this.seen = view.map; // bring its row into sight
      const [top, bottom, high] = [this.y(view.map.number), this.y(view.map.number + 1), this.scroll.clientHeight];
      if (top < this.scroll.scrollTop + SMALL.head) this.scroll.scrollTop = top - SMALL.head;
      else if (bottom > this.scroll.scrollTop + high) this.scroll.scrollTop = bottom - high + 4;
    }
    this.queue = [];
    maps.forEach((map, k) => {
      for (let head = map.heads.length > 1 ? -1 : 0; head < map.heads.length; head++) this.queue.push([k, head]);
    });
    this.work();
  }

  work() {
    const start = performance.now();
    while (this.queue.length && performance.now() - start < 8) this.one(...this.queue.shift());
    const { context, view } = this;
    context.lineWidth = 2.5;
    context.strokeStyle = view.theme.accent;
    context.strokeRect(this.x(view.head) - 1, this.y(view.map.number) - 1, this.size - 2, this.size - 2);
    if (this.queue.length) this.later = setTimeout(() => this.work(), 16);
  }

  x(head) {
    return this.left + (head - this.first) * this.size;
  }
  y(number) {
    return SMALL.head + number * this.size;
  }

  one(number, head) {
    const { context, view } = this;
    const map = maps[number];
    const [x, y, size] = [this.x(head), this.y(number), this.size - SMALL.gap];
    context.fillStyle = view.theme.raised;
    context.fillRect(x, y, size, size);
    if (!map.ready) return;
    const batch = Math.min(view.batch, map.batch - 1);
    if (view.overview === "maps") this.whole(map, batch, head, x, y, size);
    else if (map.queries.count === view.map.queries.count && map.rowOf[view.query] >= 0) this.row(map, batch, head, x, y, size);
    context.lineWidth = 1;
    context.strokeStyle = view.theme.line;
    context.strokeRect(x - 0.5, y - 0.5, size + 1, size + 1);
  }

  whole(map, batch, head, x, y, size) {
    const { context, view } = this;
    const pixels = Math.round(size * (window.devicePixelRatio || 1));
    const [w, h] = [Math.min(map.keys.count, pixels), Math.min(map.stored.length, pixels)];
    const name = [map.number, batch, head, w, h, view.scaleKind, view.dark].join(" ");
    if (!this.cache.has(name)) {
      if (this.cache.size > 4 * maps.length * (this.heads + 1)) this.cache.clear();
      this.cache.set(name, heatCanvas(map, batch, head, w, h, view));
    }
    context.imageSmoothingEnabled = false;
    context.drawImage(this.cache.get(name), x, y, size, size);
  }

  row(map, batch, head, x, y, size) {
    const { context, view } = this;
    const row = map.row(batch, head, view.query);
    const { keys, weights } = row;
    const scale = view.scaleOf(map, head, row);
    const { picture, skip, count } = map.keys;
    context.fillStyle = view.palette.css[map.signed ? 128 : 0];
    context.fillRect(x, y, size, size);
    if (picture) {
      const { rows, columns, frames } = picture;
      this.small ??= make("canvas");
      [this.small.width, this.small.height] = [columns, rows * frames];
      const pen = this.small.getContext("2d");
      const image = pen.createImageData(columns, rows * frames);
      const pixels = new Uint32Array(image.data.buffer);
      for (let e = 0; e < keys.length; e++) if (keys[e] >= skip) pixels[keys[e] - skip] = view.palette.pixels[scale.at(weights[e])];
      pen.putImageData(image, 0, 0);
      const unit = Math.min(size / columns, size / (rows * frames));
      context.imageSmoothingEnabled = columns > size;
      context.drawImage(this.small, x + (size - unit * columns) / 2, y, unit * columns, unit * rows * frames);
      return;
    }
    const listed = map.listed; // of listed pairs, the bars are the pairs; else they stand where the keys are
    const many = listed ? keys.length : count;
    const wide = Math.max(1, Math.min(6, size / many));
    for (let e = 0; e < keys.length; e++) {
      const color = scale.at(weights[e]);
      const high = (map.signed ? Math.abs(color - 127.5) / 127.5 : color / 255) * size;
      context.fillStyle = view.palette.line[color];
      context.fillRect(x + ((listed ? e : keys[e]) / many) * Math.min(size, many * wide), y + size - high, wide, high);
    }
  }

  hit(event) {
    const number = Math.floor((event.offsetY - SMALL.head) / this.size);
    const head = Math.floor((event.offsetX - this.left) / this.size) + this.first;
    const map = maps[number];
    if (!map || event.offsetY < SMALL.head || event.offsetX < this.left || head >= map.heads.length) return null;
    return head < 0 && map.heads.length < 2 ? null : { map, head };
  }

  words(found) {
    if (!found) return "";
    const { map, head } = found;
    const call = maps.some((other) => other !== map && other.path === map.path) ? `, call ${map.call}` : "";
    return `${map.path}${call}\n${head < 0 ? "mean of the heads" : `head ${map.heads[head]}`}`;
  }
}

/** Module paths without what they all begin and end with; with the number of the call where a module has several. */
function short(paths, calls) {
  const parts = paths.map((path) => path.split("."));
  const same = (k) => parts.every((p) => p.at(k) === parts[0].at(k));
  const distinct = new Set(paths).size > 1;
  const shortest = Math.min(...parts.map((p) => p.length));
  let [from, to] = [0, 0];
  while (distinct && from < shortest - 1 && same(from)) from++;
  while (distinct && to < shortest - from - 1 && same(-1 - to)) to++;
  const often = new Set(paths).size < paths.length;
  return parts.map((p, k) => p.slice(from, p.length - to).join(".") + (often ? ` #${calls[k]}` : ""));
}
