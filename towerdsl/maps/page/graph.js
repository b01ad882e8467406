"use strict";
// Listed pairs: what a node takes from its neighbors, and what these take from theirs.

const GRAPH = { ring: 260, perNode: 6, second: 24, labels: 60 };

class GraphPanel extends Panel {
  /** Where the nodes around the query stand: its keys, the strongest at the top and on clockwise; around, their keys. */
  spread(view) {
    const { map, batch, head, query, row } = view;
    const own = map.queries === map.keys;
    const order = Array.from(row.keys, (_, e) => e).sort((a, b) => Math.abs(row.weights[b]) - Math.abs(row.weights[a]) || row.keys[a] - row.keys[b]);
    const around = order.filter((e) => !own || row.keys[e] !== query);
    const kept = around.slice(0, GRAPH.ring);
    this.hidden = around.length - kept.length;
    const nodes = new Map();
    if (own) nodes.set(query, { x: 0, y: 0, weight: 0, ring: 0 });
    for (const e of order) if (own && row.keys[e] === query) nodes.get(query).weight += row.weights[e];
    this.edges = [];
    const radius = Math.min(this.width, this.height) / 2 - 46;
    const outer = own && kept.length <= GRAPH.second ? this.next(view, kept, nodes) : new Map();
    const inner = outer.size ? radius * 0.55 : radius * 0.82;
    // many neighbors stand on several circles, the strongest nearest
    const circles = Math.max(1, Math.ceil(kept.length / 64));
    const each = Math.ceil(kept.length / circles);
    kept.forEach((e, k) => {
      const circle = Math.floor(k / each);
      const many = Math.min(each, kept.length - circle * each);
      const angle = ((k % each) / many) * 2 * Math.PI - Math.PI / 2 + (circle % 2) * (Math.PI / many);
      const far = circles === 1 ? inner : inner * (0.5 + (0.6 * circle) / (circles - 1));
      const key = row.keys[e];
      if (!nodes.has(key)) nodes.set(key, { x: far * Math.cos(angle), y: far * Math.sin(angle), angle, weight: 0, ring: 1 });
      nodes.get(key).weight += row.weights[e];
      this.edges.push({ from: key, to: query, weight: row.weights[e], ring: 1 });
    });
    const slot = (2 * Math.PI) / Math.max(kept.length, 3);
    for (const [parent, children] of outer) {
      const { angle } = nodes.get(parent);
      children.forEach(({ key, weight }, k) => {
        const turn = angle + ((k + 0.5) / children.length - 0.5) * slot * 0.86;
        nodes.set(key, { x: radius * Math.cos(turn), y: radius * Math.sin(turn), angle: turn, weight, ring: 2 });
        this.edges.push({ from: key, to: parent, weight, ring: 2 });
      });
    }
    if (own && nodes.size <= 120) {
      for (const [node, { ring }] of nodes) {
        if (ring !== 1) continue;
        const other = map.row(batch, head, node);
        for (let e = 0; e < other.keys.length; e++) {
          const key = other.keys[e];
          if (key !== node && nodes.get(key)?.ring === 1) this.edges.push({ from: key, to: node, weight: other.weights[e], ring: 1.5 });
        }
      }
    }
    this.edges.sort((a, b) => b.ring - a.ring || Math.abs(a.weight) - Math.abs(b.weight)); // what matters is drawn last
    this.nodes = nodes;
  }

  /** The largest keys of each neighbour that are not drawn already. */
  next({ map, batch, head, query, row }, kept, nodes) {
    const taken = new Set([query, ...kept.map((e) => row.keys[e]), ...nodes.keys()]);
    const found = new Map();
    for (const e of kept) {
      const parent = row.keys[e];
      const { keys, weights } = map.row(batch, head, parent);
      const best = Array.from(keys, (key, k) => ({ key, weight: weights[k] }))
        .filter(({ key }) => !taken.has(key))
        .sort((a, b) => Math.abs(b.weight) - Math.abs(a.weight) || a.key - b.key)
        .slice(0, GRAPH.perNode);
      const single = [...new Map(best.map((one) => [one.key, one])).values()];
      single.forEach(({ key }) => taken.add(key));
      if (single.length) found.set(parent, single);
    }
    return found;
  }

  paint(context, view) {
    this.spread(view);
    const { nodes, edges, width, height } = this;
    const { scale, palette, theme, query, key, map, batch } = view;
    const [cx, cy] = [width / 2, height / 2];
    const own = map.queries === map.keys;
    const place = (node) => nodes.get(node) ?? { x: 0, y: 0 };
    context.lineCap = "round";
    const thick = Math.max(1.5, Math.min(8, 240 / nodes.size));
    for (const { from, to, weight, ring } of edges) {
      const [a, b] = [place(from), place(to)];
      const strength = scale.logarithmic || scale.signed ? Math.min(1, Math.abs(weight) / scale.largest) : scale.at(weight) / 255;
      context.beginPath();
      context.moveTo(cx + a.x, cy + a.y);
      context.lineTo(cx + b.x, cy + b.y);
      context.strokeStyle = ring === 1 ? palette.line[scale.at(weight)] : theme.line;
      context.lineWidth = ring === 1 ? 1 + thick * strength : ring === 2 ? 1 + 2 * strength : 0.75;
      if (from === key && ring === 1) [context.strokeStyle, context.lineWidth] = [theme.ink, context.lineWidth + 1];
      context.stroke();
    }
    context.font = PICTURE.font;
    context.textBaseline = "middle";
    context.textAlign = "center";
    if (!own) this.plate(context, theme, `query ${shorten(map.queries.label(query, batch) || `${query}`, 18)}`, cx, cy, theme.accent);
    const labelled = nodes.size <= GRAPH.labels;
    for (const [node, { x, y, angle = -Math.PI / 2, weight, ring }] of nodes) {
      const radius = this.radius(ring);
      context.beginPath();
      context.arc(cx + x, cy + y, radius, 0, 7);
      context.fillStyle = ring === 2 ? theme.raised : palette.css[scale.at(weight)];
      context.fill();
      context.lineWidth = node === query && own ? 3 : 1.25;
      context.strokeStyle = node === query && own ? theme.accent : node === key ? theme.ink : theme.soft;
      context.stroke();
      if ((labelled && ring < 2) || nodes.size <= 40 || ring === 0 || node === key) {
        const text = shorten(map.keys.label(node, batch) || `${node}`, 18);
        const across = ring ? Math.cos(angle) : 0;
        const side = Math.abs(across) > 0.25 ? Math.sign(across) : 0; // beside the node, or above or below it
        context.textAlign = side > 0 ? "left" : side < 0 ? "right" : "center";
        const [tx, ty] = [cx + x + side * (radius + 5), cy + y + Math.sin(angle) * (side ? radius : radius + 11)];
        this.plate(context, theme, text, tx, ty, ring === 2 ? theme.soft : theme.ink);
      }
    }
    context.textAlign = "left";
    context.fillStyle = theme.soft;
    const count = edges.filter((edge) => edge.ring === 1).length;
    const more = this.hidden ? `; ${this.hidden} weaker ones are not drawn` : "";
    const go = own ? " Click a node to go to it." : "";
    context.fillText(`${count} neighbor${count === 1 ? "" : "s"}${more}.${go}`, 16, height - 16);
  }

  /** A text on a plate of its own, so that edges do not cross it. */
  plate(context, theme, text, x, y, ink) {
    const wide = context.measureText(text).width;
    const left = { left: 0, start: 0, right: 1, center: 0.5 }[context.textAlign] * wide;
    context.fillStyle = theme.ground;
    context.fillRect(x - left - 2, y - 8, wide + 4, 16);
    context.fillStyle = ink;
    context.fillText(text, x, y);
  }

  radius(ring) {
    return ring === 0 ? 13 : ring === 1 ? (this.nodes.size > 100 ? 5 : 8) : 4.5;
  }

  hit(x, y) {
    if (!this.nodes) return {};
    let best = -1;
    let distance = Infinity;
    for (const [node, at] of this.nodes) {
      const away = Math.hypot(x - this.width / 2 - at.x, y - this.height / 2 - at.y) - this.radius(at.ring);
      if (away < distance) [best, distance] = [node, away];
    }
    return distance < 5 ? { key: best } : {};
  }
}
