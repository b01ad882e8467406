"use strict";
// Beside the map: the color scale with its numbers, the largest weights of the row, the tooltip, the tree of modules.

const ROWS = 12;

class Legend {
  constructor() {
    this.canvas = document.getElementById("legend-bar");
    this.numbers = document.getElementById("legend-numbers");
  }

  draw({ scale, palette, map }) {
    const beyond = map.keys.skip > 0; // tokens beside a picture may have larger weights
    const name = [palette.css[0], palette.css[255], scale.largest, scale.logarithmic, scale.signed, beyond].join();
    if (name === this.drawn) return;
    this.drawn = name;
    this.canvas.width = 256;
    const context = this.canvas.getContext("2d");
    for (let k = 0; k < 256; k++) {
      context.fillStyle = palette.css[k];
      context.fillRect(k, 0, 1, 12);
    }
    const ticks = scale.ticks();
    const texts = ticks.map((weight, k) => {
      const sign = scale.logarithmic && k === 0 ? "≤ " : beyond && k === ticks.length - 1 ? "≥ " : "";
      return sign + number(weight);
    });
    this.numbers.replaceChildren(...texts.map((text) => make("span", "", text)));
  }
}

/** The keys that count most for the query. The elements of its rows are made once: it changes at every move. */
class Table {
  constructor(events) {
    this.title = document.getElementById("row-title");
    this.rest = document.getElementById("rest");
    this.rows = Array.from({ length: ROWS }, () => {
      const [row, key, weight, share, bar] = [make("tr"), make("td"), make("td", "number"), make("td"), make("div", "bar")];
      share.append(bar);
      row.append(key, weight, share);
      row.addEventListener("pointerenter", () => row.dataset.key && events.read(Number(row.dataset.key)));
      row.addEventListener("pointerleave", () => events.read(-1));
      return { row, key, weight, bar };
    });
    document.getElementById("largest").append(...this.rows.map(({ row }) => row));
  }

  draw(view) {
    const { map, batch, query, head, row, scale, palette, key } = view;
    this.title.textContent = `Query ${map.queries.name(query, batch)}`;
    this.best = largestOf(row.weights, ROWS);
    let sum = 0;
    for (const weight of row.weights) sum += weight;
    this.rows.forEach((cells, k) => {
      const e = this.best[k];
      cells.row.dataset.key = e === undefined ? "" : row.keys[e];
      cells.row.className = e !== undefined && row.keys[e] === key ? "held" : "";
      cells.key.textContent = e === undefined ? "" : map.keys.name(row.keys[e], batch);
      cells.key.title = cells.key.textContent;
      cells.weight.textContent = e === undefined ? "" : number(row.weights[e]);
      const color = e === undefined ? 0 : scale.at(row.weights[e]);
      const share = e === undefined ? 0 : Math.min(1, Math.abs(row.weights[e]) / scale.largest);
      cells.bar.style.width = e === undefined ? "0" : `${100 * share}%`;
      cells.bar.style.background = palette.line[color];
      cells.bar.hidden = e === undefined;
    });
    const more = row.keys.length - this.best.length;
    const who = head < 0 ? "mean of the heads" : `head ${map.heads[head]}`;
    this.rest.textContent = `${who}: ${more > 0 ? `${more} more keys; ` : ""}the sum is ${number(sum)}`;
  }
}

/** Where the largest |weights| are, largest first. */
function largestOf(weights, count) {
  const best = [];
  for (let e = 0; e < weights.length; e++) {
    const size = Math.abs(weights[e]);
    if (best.length === count && size <= Math.abs(weights[best.at(-1)])) continue;
    let k = best.length;
    while (k > 0 && Math.abs(weights[best[k - 1]]) < size) k--;
    best.splice(k, 0, e);
    best.length = Math.min(best.length, count);
  }
  return best;
}

class Tooltip {
  constructor() {
    this.element = document.getElementById("tooltip");
  }

  show(text, event) {
    this.element.hidden = !text || !event;
    if (this.element.hidden) return;
    this.element.textContent = text;
    const { offsetWidth, offsetHeight } = this.element;
    const x = Math.min(event.clientX + 14, window.innerWidth - offsetWidth - 6);
    const y = event.clientY + 18 + offsetHeight > window.innerHeight ? event.clientY - offsetHeight - 10 : event.clientY + 18;
    this.element.style.left = `${Math.max(4, x)}px`;
    this.element.style.top = `${y}px`;
  }
}

/** The modules that have attentions, nested; modules with one inner module share a line with it. */
class Tree {
  constructor(choose) {
    this.buttons = new Map();
    const root = { inner: new Map() };
    for (const { path } of maps) {
      let at = root;
      for (const part of path.split(".")) {
        if (!at.inner.has(part)) at.inner.set(part, { inner: new Map() });
        at = at.inner.get(part);
      }
      at.path = path;
    }
    document.getElementById("tree").append(this.list(root, choose));
  }

  list(node, choose) {
    const list = make("ul");
    for (let [name, inner] of node.inner) {
      while (inner.path === undefined && inner.inner.size === 1) {
        const [[next, below]] = inner.inner;
        [name, inner] = [`${name}.${next}`, below];
      }
      const item = make("li");
      if (inner.path === undefined) item.append(make("span", "module", name));
      else {
        const button = make("button", "", name || "(the model)");
        button.type = "button";
        button.title = inner.path;
        button.addEventListener("click", () => choose(inner.path));
        this.buttons.set(inner.path, button);
        item.append(button);
      }
      if (inner.inner.size) item.append(this.list(inner, choose));
      list.append(item);
    }
    return list;
  }

  mark(path) {
    if (this.marked === path) return;
    this.marked = path;
    for (const [name, button] of this.buttons) button.setAttribute("aria-current", name === path);
    this.buttons.get(path).scrollIntoView({ block: "nearest" });
  }
}

/** A drawing of the model; its elements of class `attention` name modules by patterns: layer.*.attention. */
class Drawing {
  constructor(text, choose) {
    const found = new DOMParser().parseFromString(text, "image/svg+xml");
    this.places = [];
    if (found.documentElement.localName !== "svg") return;
    found.querySelectorAll("script, foreignObject").forEach((element) => element.remove());
    const svg = document.importNode(found.documentElement, true);
    for (const element of svg.querySelectorAll(".attention[data-path]")) {
      const pattern = new RegExp(`^${element.dataset.path.split("*").map(RegExp.escape ?? escape).join(".*")}$`);
      const matching = maps.filter((map) => pattern.test(map.path)).map((map) => map.path);
      if (!matching.length) continue;
      element.setAttribute("tabindex", 0);
      element.setAttribute("role", "button");
      element.setAttribute("aria-label", `attention ${element.dataset.path}`);
      // one drawn attention may stand for several layers: choosing it again goes to the next
      const go = () => choose(matching[(matching.indexOf(this.chosen) + 1) % matching.length]);
      element.addEventListener("click", go);
      element.addEventListener("keydown", (event) => {
        if (event.key === "Enter" || event.key === " ") [event.preventDefault(), event.stopPropagation(), go()];
      });
      this.places.push({ element, matching });
    }
    const frame = document.getElementById("drawing");
    frame.append(svg);
    frame.hidden = false;
  }

  mark(path) {
    this.chosen = path;
    for (const { element, matching } of this.places) element.classList.toggle("chosen", matching.includes(path));
  }
}

function escape(text) {
  return text.replace(/[\\^$.*+?()[\]{}|]/g, "\\$&");
}
