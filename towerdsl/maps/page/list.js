"use strict";
// Positions that follow each other: tokens as running text, or numbers where they have no labels.

const LIST = { font: "14px system-ui, 'DejaVu Sans', sans-serif", pad: 5, gap: 2, line: 28, margin: 16 };

class ListPanel extends Panel {
  arrange({ batch }) {
    const { side, context, width } = this;
    const { pad, gap, line, margin } = LIST;
    context.font = LIST.font;
    const measured = new Map();
    const measure = (text) => {
      if (!measured.has(text)) measured.set(text, Math.ceil(context.measureText(text).width));
      return measured.get(text);
    };
    const columns = side.named ? 0 : measure(`${side.count - 1}`) + 2 * pad; // numbers stand under each other
    this.texts = new Array(side.count);
    this.left = new Float32Array(side.count);
    this.widths = new Float32Array(side.count);
    this.lines = [0]; // the first position of each line
    let x = margin;
    for (let k = 0; k < side.count; k++) {
      const label = side.label(k, batch);
      this.texts[k] = side.named ? shorten(shown(label), 60) : `${k}`;
      this.widths[k] = columns || measure(this.texts[k]) + 2 * pad;
      if (x + this.widths[k] > width - margin && x > margin) {
        this.lines.push(k);
        x = margin;
      }
      this.left[k] = x;
      x += this.widths[k] + gap;
      if (label.includes("\n") && k + 1 < side.count) {
        this.lines.push(k + 1);
        x = margin;
      }
    }
    return this.lines.length * line + 2 * margin;
  }

  paint(context, view) {
    const { line, pad, margin } = LIST;
    const { texts, left, widths, lines, element, height, side } = this;
    const { dense, scale, palette, theme, map } = view;
    context.font = LIST.font;
    context.textBaseline = "middle";
    const first = Math.max(0, Math.floor((element.scrollTop - margin) / line));
    const last = Math.min(lines.length, Math.ceil((element.scrollTop + height - margin) / line));
    for (let l = first; l < last; l++) {
      const y = margin + l * line;
      const end = lines[l + 1] ?? side.count;
      for (let k = lines[l]; k < end; k++) {
        let ink = theme.ink;
        if (this.answers) {
          const color = scale.at(dense[k]);
          context.fillStyle = palette.css[color];
          context.fillRect(left[k], y, widths[k], line - 4);
          ink = palette.ink[color];
        } else if (map.rowOf[k] < 0) ink = theme.faint;
        context.fillStyle = ink;
        context.fillText(texts[k], left[k] + (side.named ? pad : widths[k] - pad - context.measureText(texts[k]).width), y + line / 2 - 1);
        if (this.asks && map.isOneOfFew(k)) this.dot(context, view, left[k] + 3, y + 3);
      }
    }
    if (this.answers && view.key >= 0) this.mark(context, view, view.key, "key");
    if (this.asks) this.mark(context, view, view.query, "query");
  }

  mark(context, view, position, what) {
    const y = this.top(position);
    this.frame(context, view, this.left[position] - 1, y - 1, this.widths[position] + 2, LIST.line - 2, what);
  }

  lineOf(position) {
    let low = 0;
    let high = this.lines.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.lines[middle] <= position) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  top(position) {
    return LIST.margin + this.lineOf(position) * LIST.line;
  }

  /** The position of a line that is at x, or the nearest one. */
  nearest(line, x, within) {
    const end = this.lines[line + 1] ?? this.side.count;
    let best = -1;
    let distance = Infinity;
    for (let k = this.lines[line]; k < end; k++) {
      const away = Math.max(this.left[k] - x, x - this.left[k] - this.widths[k], 0);
      if (away < distance) [best, distance] = [k, away];
    }
    return distance <= within ? best : -1;
  }

  hit(x, y) {
    const line = Math.floor((y - LIST.margin) / LIST.line);
    if (line < 0 || line >= this.lines.length) return {};
    const found = this.nearest(line, x, LIST.gap);
    if (found < 0) return {};
    return { ...(this.asks && { query: found }), ...(this.answers && { key: found }) };
  }

  step(query, across, down) {
    if (!down) return query + across;
    const line = this.lineOf(query) + down;
    if (line < 0 || line >= this.lines.length) return query;
    return this.nearest(line, this.left[query] + this.widths[query] / 2, Infinity);
  }

  reveal(view) {
    if (this.asks) this.show(this.top(view.query), this.top(view.query) + LIST.line);
  }
}
