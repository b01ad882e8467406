"use strict";
// From weights to colors.

const STOPS = {
  light: ["#ffffff", "#deebf7", "#9ecae1", "#4292c6", "#08519c", "#08306b"],
  dark: ["#14161b", "#3b1560", "#8c2981", "#de4968", "#fe9f6d", "#fcfdbf"],
  lightSigned: ["#b2182b", "#ef8a62", "#fddbc7", "#ffffff", "#d1e5f0", "#67a9cf", "#2166ac"],
  darkSigned: ["#ff8a80", "#b23a48", "#4a1d2a", "#14161b", "#173454", "#2f6fad", "#82c0ff"],
};

/** 256 colors between some: as pixels of an ImageData, as CSS, as lines that can be seen, and of text on them. */
class Palette {
  constructor(stops, signed) {
    const parts = stops.map((hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16)));
    this.pixels = new Uint32Array(256);
    this.css = [];
    this.ink = [];
    for (let k = 0; k < 256; k++) {
      const at = (k / 255) * (parts.length - 1);
      const low = Math.min(Math.floor(at), parts.length - 2);
      const [r, g, b] = parts[low].map((from, c) => Math.round(from + (parts[low + 1][c] - from) * (at - low)));
      this.pixels[k] = (255 << 24) | (b << 16) | (g << 8) | r; // little-endian RGBA
      this.css.push(`rgb(${r} ${g} ${b})`);
      this.ink.push(0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#111" : "#fff");
    }
    const seen = (k) => (signed ? (k > 127 ? Math.max(k, 175) : Math.min(k, 80)) : Math.max(k, 95));
    this.line = this.css.map((_, k) => this.css[seen(k)]);
  }

  static of(dark, signed) {
    const stops = given.colors ?? STOPS[(dark ? "dark" : "light") + (signed ? "Signed" : "")];
    const name = `${stops} ${signed}`;
    Palette.made ??= new Map();
    if (!Palette.made.has(name)) Palette.made.set(name, new Palette(stops, signed));
    return Palette.made.get(name);
  }
}

const DECADES = 3;

/** Where a weight stands between 0 (or minus the largest, if there are signs) and the largest: 0 to 255. */
class Scale {
  constructor(largest, signed, logarithmic) {
    Object.assign(this, { largest: largest || 1, signed, logarithmic });
  }

  at(weight) {
    let t = Math.min(Math.abs(weight) / this.largest, 1);
    if (this.logarithmic) t = t > 0 ? Math.max(0, 1 + Math.log10(t) / DECADES) : 0;
    return Math.round(this.signed ? 127.5 * (1 + Math.sign(weight) * t) : 255 * t);
  }

  /** Weights to write under the scale, evenly spaced. */
  ticks() {
    const { largest, signed, logarithmic } = this;
    if (signed) return [-largest, 0, largest];
    if (logarithmic) return Array.from({ length: DECADES + 1 }, (_, k) => largest * 10 ** (k - DECADES));
    return [0, 0.25, 0.5, 0.75, 1].map((t) => t * largest);
  }
}
