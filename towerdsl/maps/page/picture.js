"use strict";
// Positions that form a grid: the patches of a photo, the cells of a window; leading tokens stand above as chips.

const PICTURE = { margin: 16, chip: 26, gap: 6, font: "12.5px system-ui, 'DejaVu Sans', sans-serif" };

class PicturePanel extends Panel {
  constructor(side, role, events, photos) {
    super(side, role, events);
    const { rows, columns, frames } = side.picture;
    this.photos = photos;
    this.small = make("canvas"); // one pixel for each position
    this.small.width = columns;
    this.small.height = rows * frames;
    this.pixels = this.small.getContext("2d");
    this.image = this.pixels.createImageData(columns, rows * frames);
    this.colors = new Uint32Array(this.image.data.buffer);
  }

  arrange(view) {
    const { side, context, width, height } = this;
    const { margin, chip, gap } = PICTURE;
    const { rows, columns, frames } = side.picture;
    context.font = PICTURE.font;
    this.chips = [];
    let x = margin;
    let y = margin;
    for (let k = 0; k < side.skip; k++) {
      const text = shorten(shown(side.label(k, view.batch) || `token ${k}`), 24);
      const wide = Math.ceil(context.measureText(text).width) + 16;
      if (x + wide > width - margin && x > margin) {
        x = margin;
        y += chip + gap;
      }
      this.chips.push({ x, y, wide, text });
      x += wide + gap;
    }
    this.upper = side.skip ? y + chip + 10 : margin;
    // frames stand in the arrangement that leaves their cells largest
    const [w, h] = [width - 2 * margin, Math.max(60, height - this.upper - margin)];
    this.cell = 0;
    for (let across = 1; across <= frames; across++) {
      const down = Math.ceil(frames / across);
      const cell = Math.min((w - (across - 1) * 10) / (across * columns), (h - (down - 1) * 10) / (down * rows));
      if (cell > this.cell) Object.assign(this, { cell, across });
    }
    this.cell = Math.min(Math.max(this.cell, 1), 64);
    const taken = this.across * columns * this.cell + (this.across - 1) * 10;
    this.start = margin + Math.max(0, (w - taken) / 2);
    return this.upper + Math.ceil(frames / this.across) * (rows * this.cell + 10) + margin - 10;
  }

  /** The upper left corner of a frame. */
  corner(frame) {
    const { rows, columns } = this.side.picture;
    const x = this.start + (frame % this.across) * (columns * this.cell + 10);
    return [x, this.upper + Math.floor(frame / this.across) * (rows * this.cell + 10)];
  }

  rectangle(position) {
    const { skip, picture } = this.side;
    if (position < skip) {
      const { x, y, wide } = this.chips[position];
      return [x, y, wide, PICTURE.chip];
    }
    const cell = position - skip;
    const frame = Math.floor(cell / (picture.rows * picture.columns));
    const [x, y] = this.corner(frame);
    const row = Math.floor(cell / picture.columns) % picture.rows;
    return [x + (cell % picture.columns) * this.cell, y + row * this.cell, this.cell, this.cell];
  }

  paint(context, view) {
    const { side, cell } = this;
    const { rows, columns, frames } = side.picture;
    const { dense, scale, palette, theme, map, query, key } = view;
    const photo = this.photos[this.photos.length > 1 ? view.batch : 0];
    const known = photo?.complete && photo.naturalWidth;
    context.font = PICTURE.font;
    context.textBaseline = "middle";
    this.chips.forEach(({ x, y, wide, text }, k) => {
      const color = scale.at(this.answers ? dense[k] : 0);
      context.fillStyle = palette.css[color];
      context.fillRect(x, y, wide, PICTURE.chip);
      this.outline(context, theme.line, x + 0.5, y + 0.5, wide - 1, PICTURE.chip - 1);
      context.fillStyle = this.asks && !this.answers && map.rowOf[k] < 0 ? theme.faint : palette.ink[color];
      context.fillText(text, x + 8, y + PICTURE.chip / 2 + 1);
    });
    if (this.answers) {
      for (let k = 0; k < this.colors.length; k++) {
        const color = scale.at(dense[k + side.skip]);
        // over a photo, what is hardly taken lets the photo through
        const alpha = known ? Math.round(255 * Math.min(0.85, (scale.signed ? Math.abs(color - 127.5) * 2 : color) / 150)) : 255;
        this.colors[k] = (palette.pixels[color] & 0xffffff) | (alpha << 24);
      }
      this.pixels.putImageData(this.image, 0, 0);
    }
    for (let frame = 0; frame < frames; frame++) {
      const [x, y] = this.corner(frame);
      const size = [columns * cell, rows * cell];
      context.imageSmoothingEnabled = true;
      if (known) {
        context.drawImage(photo, x, y, ...size);
        context.fillStyle = `rgb(0 0 0 / ${this.answers ? 1 - view.photo : 0.1})`;
        context.fillRect(x, y, ...size);
      }
      context.imageSmoothingEnabled = false;
      if (this.answers) context.drawImage(this.small, 0, frame * rows, columns, rows, x, y, ...size);
      if (!known && cell >= 5) this.lines(context, theme, x, y);
      if (!known) this.outline(context, theme.line, x, y, ...size);
    }
    for (const k of this.asks ? map.stored.filter((k) => map.isOneOfFew(k)) : []) {
      const [x, y] = this.rectangle(k);
      this.dot(context, view, x + 4, y + 4);
    }
    if (this.answers && key >= 0) this.frame(context, view, ...this.rectangle(key), "key");
    if (this.asks) this.frame(context, view, ...this.rectangle(query), "query");
  }

  frame(context, view, x, y, width, height, what) {
    const photo = this.photos.length > 0;
    context.lineWidth = what === "query" ? 4.5 : 3;
    context.strokeStyle = photo ? "#000a" : view.theme.ground; // a rim, so that it shows on every color
    context.strokeRect(x, y, width, height);
    context.lineWidth = what === "query" ? 2.5 : 1.5;
    context.strokeStyle = what === "query" ? (photo ? "#39e58c" : view.theme.accent) : photo ? "#fff" : view.theme.ink;
    context.strokeRect(x, y, width, height);
  }

  outline(context, color, x, y, width, height) {
    context.lineWidth = 1;
    context.strokeStyle = color;
    context.strokeRect(x, y, width, height);
  }

  lines(context, theme, x, y) {
    const { rows, columns } = this.side.picture;
    context.beginPath();
    for (let k = 1; k < columns; k++) {
      context.moveTo(x + k * this.cell, y);
      context.lineTo(x + k * this.cell, y + rows * this.cell);
    }
    for (let k = 1; k < rows; k++) {
      context.moveTo(x, y + k * this.cell);
      context.lineTo(x + columns * this.cell, y + k * this.cell);
    }
    context.lineWidth = 0.5;
    context.strokeStyle = theme.line;
    context.stroke();
  }

  hit(x, y) {
    const { skip, picture } = this.side;
    const { rows, columns, frames } = picture;
    let found = this.chips.findIndex((c) => x >= c.x && x < c.x + c.wide && y >= c.y && y < c.y + PICTURE.chip);
    for (let frame = 0; found < 0 && frame < frames; frame++) {
      const [left, top] = this.corner(frame);
      const column = Math.floor((x - left) / this.cell);
      const row = Math.floor((y - top) / this.cell);
      if (column >= 0 && column < columns && row >= 0 && row < rows) found = skip + (frame * rows + row) * columns + column;
    }
    if (found < 0) return {};
    return { ...(this.asks && { query: found }), ...(this.answers && { key: found }) };
  }

  step(query, across, down) {
    const { skip, picture, count } = this.side;
    if (query < skip) return down > 0 ? skip : query + across;
    const next = query + across + down * picture.columns;
    if (next < skip) return skip ? skip - 1 : query;
    return next < count ? next : query;
  }

  reveal(view) {
    if (!this.asks) return;
    const [, y, , height] = this.rectangle(view.query);
    this.show(y, y + height);
  }
}
