"use strict";
// What the page was given: the positions on the sides of attentions, and their weights (packed by packing.py).

const given = JSON.parse(document.getElementById("data").textContent);

/** The positions on one side of an attention: their places, labels, and the grid of a picture, if they form one. */
class Side {
  constructor({ axes, sizes, labels, skip, picture }) {
    Object.assign(this, { axes, sizes, labels, skip });
    this.count = sizes.reduce((a, b) => a * b, 1);
    this.picture = picture && { frames: picture[0], rows: picture[1], columns: picture[2] };
    this.named = labels.some((of) => of !== null);
  }

  /** The coordinates of a position along the axes. */
  place(position) {
    const found = [];
    for (let k = this.sizes.length - 1; k >= 0; k--) {
      found.unshift(position % this.sizes[k]);
      position = Math.floor(position / this.sizes[k]);
    }
    return found;
  }

  /** What the user calls a position; "" where it has no name. */
  label(position, batch) {
    if (!this.named) return "";
    const places = this.place(position);
    const names = this.labels.map((of, k) => (of ? of[of.length > 1 ? batch : 0]?.[places[k]] : undefined));
    return names.filter((name) => name !== undefined).join(", ");
  }

  /** A position in words: its label, and where it is. */
  name(position, batch) {
    const label = this.label(position, batch);
    const where = this.where(position);
    return label ? `“${shorten(shown(label), 40)}” (${where})` : where;
  }

  where(position) {
    if (this.picture && position >= this.skip) {
      const { rows, columns, frames } = this.picture;
      const cell = position - this.skip;
      const frame = frames > 1 ? `frame ${Math.floor(cell / (rows * columns))}, ` : "";
      return `${frame}row ${Math.floor(cell / columns) % rows}, column ${cell % columns}`;
    }
    return this.picture ? `token ${position}` : `${position}`;
  }
}

/** The weights of one attention in one call, [batch, head, row, key]; of each row only the entries that were kept. */
class AttentionMap {
  constructor(header, number) {
    Object.assign(this, header, { number });
    this.queries = sides[header.queries];
    this.keys = sides[header.keys];
    this.stored = header.chosen ?? Array.from({ length: this.queries.count }, (_, k) => k);
    this.heads = header.heads.length ? header.heads : [0];
    this.rowOf = new Int32Array(this.queries.count).fill(-1);
    this.stored.forEach((position, k) => (this.rowOf[position] = k));
    this.peaks = new Map();
  }

  /** Whether a position is one of a few queries that were kept, which the page marks. */
  isOneOfFew(query) {
    return this.stored.length < this.queries.count && this.rowOf[query] >= 0;
  }

  /** Unpack the weights; once. */
  load() {
    this.loading ??= this.unpack();
    return this.loading;
  }

  async unpack() {
    const element = document.getElementById(`weights-${this.number}`);
    const packed = new Blob([bytesOf(element.textContent)]);
    const buffer = await new Response(packed.stream().pipeThrough(new DecompressionStream("deflate"))).arrayBuffer();
    const values = { 8: [Uint8Array, Int8Array], 16: [Uint16Array, Int16Array] }[this.bits][Number(this.signed)];
    let offset = 0;
    const take = (Kind, length) => {
      const array = new Kind(buffer, offset, length);
      offset += array.byteLength;
      return array;
    };
    this.scales = take(Float32Array, this.rows);
    const counts = take(Uint32Array, this.rows);
    this.columns = take(this.wide ? Uint32Array : Uint16Array, this.entries);
    this.values = take(values, this.entries);
    this.starts = new Uint32Array(this.rows + 1);
    for (let r = 0; r < this.rows; r++) {
      const start = this.starts[r];
      const end = (this.starts[r + 1] = start + counts[r]);
      for (let e = start + 1; e < end; e++) this.columns[e] += this.columns[e - 1]; // they are differences
    }
    this.top = 2 ** (this.bits - Number(this.signed)) - 1;
    this.ready = true;
  }

  /** The entries of one row, {keys, weights}; `head` counts along the dim of heads, -1 is their mean. */
  row(batch, head, query) {
    const at = this.rowOf[query];
    if (!this.ready || at < 0) return { keys: [], weights: [] };
    if (head < 0) return this.mean(batch, at);
    const r = (batch * this.heads.length + head) * this.stored.length + at;
    const start = this.starts[r];
    const end = this.starts[r + 1];
    const weights = new Float32Array(end - start);
    const unit = this.scales[r] / this.top ** 2;
    for (let e = start; e < end; e++) weights[e - start] = this.values[e] * Math.abs(this.values[e]) * unit; // they are roots
    return { keys: this.columns.subarray(start, end), weights };
  }

  mean(batch, at) {
    const sums = (this.sums ??= new Float64Array(this.keys.count)); // zeros between calls
    const seen = (this.seen ??= new Uint8Array(this.keys.count));
    const found = [];
    for (let head = 0; head < this.heads.length; head++) {
      const { keys, weights } = this.row(batch, head, this.stored[at]);
      for (let e = 0; e < keys.length; e++) {
        if (!seen[keys[e]]) found.push(keys[e]);
        seen[keys[e]] = 1;
        sums[keys[e]] += weights[e];
      }
    }
    const keys = Uint32Array.from(found).sort();
    const weights = Float32Array.from(keys, (key) => sums[key] / this.heads.length);
    for (const key of keys) sums[key] = seen[key] = 0;
    return { keys, weights };
  }

  /** The largest |weight| of some entries. Tokens beside a picture would often outshine it: they do not count. */
  largest({ keys, weights }) {
    const skip = this.keys.skip;
    let inside = 0;
    let beside = 0;
    for (let e = 0; e < keys.length; e++) {
      const size = Math.abs(weights[e]);
      if (keys[e] >= skip) inside = Math.max(inside, size);
      else beside = Math.max(beside, size);
    }
    return inside || beside;
  }

  /** The largest |weight| of a head. */
  peak(batch, head) {
    const name = `${batch} ${head}`;
    if (!this.peaks.has(name)) {
      let largest = 0;
      for (const query of this.stored) largest = Math.max(largest, this.largest(this.row(batch, head, query)));
      this.peaks.set(name, largest);
    }
    return this.peaks.get(name);
  }
}

function bytesOf(base64) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(base64);
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let k = 0; k < text.length; k++) bytes[k] = text.charCodeAt(k);
  return bytes;
}

/** A label with what cannot be seen made visible. */
function shown(label) {
  return label.replaceAll("\n", "⏎").replaceAll("\t", "⇥").replace(/^ +| +$/g, (blank) => "·".repeat(blank.length)) || "∅";
}

function shorten(text, length) {
  return text.length > length ? `${text.slice(0, length - 1)}…` : text;
}

/** A weight with as many digits as mean something. */
function number(weight) {
  if (weight === 0) return "0";
  return Math.abs(weight) < 0.001 || Math.abs(weight) >= 1e4 ? weight.toExponential(2) : weight.toPrecision(4);
}

const sides = given.sides.map((side) => new Side(side));
const maps = given.maps.map((header, k) => new AttentionMap(header, k));
