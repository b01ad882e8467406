"use strict";
// What is chosen, and how it changes: by pointing, by keys, by the address of the page.

class Explorer {
  constructor() {
    this.state = { map: maps[0], batch: 0, head: 0, query: 0, key: -1, held: false, matrix: false, scaleKind: "row", photo: 0.35 };
    this.state.overview = maps.some((map) => map.keys.picture || map.listed) ? "query" : "maps";
    this.state.query = middle(maps[0]);
    this.photos = given.images.map((source) => {
      const image = new Image();
      image.onload = () => this.redraw();
      image.src = source;
      return image;
    });
    this.stage = document.getElementById("stage");
    this.panels = [];
    this.times = []; // of the last updates, in ms
    this.tooltip = new Tooltip();
    this.legend = new Legend();
    this.table = new Table({ read: (key) => this.change({ key }) });
    const choose = (path) => this.change({ map: maps.find((map) => map.path === path) });
    this.tree = new Tree(choose);
    this.drawing = given.svg === null ? null : new Drawing(given.svg, choose);
    this.overview = new Overview({ choose: (found) => this.change(found), tip: (text, event) => this.tooltip.show(text, event) });
    this.controls();
    this.restore();
    new ResizeObserver(() => this.fit()).observe(this.stage);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.redraw());
    addEventListener("hashchange", () => this.restore());
    addEventListener("keydown", (event) => this.keyboard(event));
    this.loadAll();
  }

  async loadAll() {
    try {
      await this.state.map.load();
      this.redraw();
      for (const map of maps) {
        await map.load();
        this.overviewSoon();
      }
      document.body.dataset.ready = "yes";
    } catch (error) {
      document.getElementById("summary").textContent = `The weights cannot be unpacked in this browser: ${error.message}`;
    }
  }

  // --- what changes ---

  /** Choose something else; everything that follows from it is drawn in the next frame. */
  change(next) {
    const state = Object.assign(this.state, next);
    const { map } = state;
    state.batch = clamp(state.batch, 0, map.batch - 1);
    state.head = clamp(state.head, map.heads.length > 1 ? -1 : 0, map.heads.length - 1);
    if (!(map.rowOf[state.query] >= 0)) state.query = middle(map);
    if (state.key >= map.keys.count) state.key = -1;
    if (!map.ready) map.load().then(() => this.redraw());
    this.redraw();
  }

  redraw() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.render();
    });
  }

  /** All that drawing needs to know. */
  view() {
    const { state } = this;
    const { map, batch, head, query } = state;
    const style = getComputedStyle(document.documentElement);
    const theme = Object.fromEntries(["ground", "raised", "line", "ink", "soft", "faint", "accent"].map((n) => [n, style.getPropertyValue(`--${n}`)]));
    const dark = matchMedia("(prefers-color-scheme: dark)").matches || (this.photos.length > 0 && map.keys.picture !== null);
    const row = map.row(batch, head, query);
    const view = { ...state, theme, dark, row, palette: Palette.of(dark, map.signed) };
    view.scaleOf = (other, which, entries) => {
      const largest = state.scaleKind === "map" ? other.peak(Math.min(batch, other.batch - 1), which) : other.largest(entries);
      return new Scale(largest, other.signed, state.scaleKind === "log");
    };
    view.scale = map.ready ? view.scaleOf(map, head, row) : new Scale(1, map.signed, false);
    if (this.dense?.length !== map.keys.count) this.dense = new Float32Array(map.keys.count);
    view.dense = this.dense.fill(0);
    for (let e = 0; e < row.keys.length; e++) this.dense[row.keys[e]] += row.weights[e];
    return view;
  }

  render() {
    const start = performance.now();
    const view = this.view();
    const { map, query } = view;
    if (this.arranged !== this.arrangement()) this.arrange(view);
    for (const panel of this.panels) {
      if (this.revealed !== query && !this.pointing) panel.reveal(view);
      panel.draw(view);
    }
    this.revealed = query;
    this.legend.draw(view);
    this.table.draw(view);
    this.tree.mark(map.path);
    this.drawing?.mark(map.path);
    this.words(view);
    this.times.push(performance.now() - start);
    if (this.times.length > 500) this.times.shift();
    // the rest may lag behind the pointer
    clearTimeout(this.settled);
    this.settled = setTimeout(() => {
      this.overview.draw(this.view());
      this.remember();
      this.announce(view);
    }, 80);
  }

  overviewSoon() {
    clearTimeout(this.soon);
    this.soon = setTimeout(() => this.overview.draw(this.view()), 30);
  }

  // --- the panels ---

  arrangement() {
    const { map, matrix, batch } = this.state;
    return [matrix ? `matrix ${map.number}` : `${map.listed}`, sides.indexOf(map.queries), sides.indexOf(map.keys), batch].join(" ");
  }

  /** Make the panels for the positions of a map. */
  arrange(view) {
    this.arranged = this.arrangement();
    const { map, matrix } = view;
    const events = { point: (...all) => this.point(...all), pick: (...all) => this.pick(...all), redraw: () => this.redraw() };
    const positions = (side, role) => (side.picture ? new PicturePanel(side, role, events, this.photos) : new ListPanel(side, role, events));
    if (matrix) this.panels = [new MatrixPanel(map, events)];
    else {
      const own = map.queries === map.keys;
      const keys = map.listed ? new GraphPanel(map.keys, own ? "both" : "keys", events) : positions(map.keys, own ? "both" : "keys");
      this.panels = own || map.queries.count === 1 ? [keys] : [positions(map.queries, "queries"), keys];
    }
    this.stage.replaceChildren(
      ...this.panels.map((panel) => {
        const pane = make("div", "pane");
        if (this.panels.length > 1) pane.append(make("h3", "", panel.role));
        pane.append(panel.element);
        return pane;
      }),
    );
    this.fit();
  }

  fit() {
    if (!this.panels.length) return;
    const view = this.view();
    for (const panel of this.panels) panel.resize(view);
    this.revealed = null;
    this.redraw();
  }

  /** The pointer is over positions of a panel: they become the query, or are read where it is held. */
  point(panel, found, event) {
    const { map, held } = this.state;
    const asked = found.query !== undefined && map.rowOf[found.query] >= 0 && !held;
    this.pointing = event !== null;
    const next = { key: asked && found.query === found.key && !this.state.matrix ? -1 : (found.key ?? -1) };
    if (held && this.state.matrix && found.query !== this.state.query) next.key = -1;
    if (asked) next.query = found.query;
    this.change(next);
    const { query, key, batch, head } = this.state;
    if (key < 0) return this.tooltip.show("", event);
    this.tooltip.show(`key ${map.keys.name(key, batch)}\nweight ${number(this.weight(key))}${head < 0 ? ", mean of the heads" : ""}\nquery ${map.queries.name(query, batch)}`, event);
  }

  /** The weight of a key for the chosen query, as precisely as it was kept. */
  weight(key) {
    const { map, batch, head, query } = this.state;
    const { keys, weights } = map.row(batch, head, query);
    let sum = 0;
    for (let e = 0; e < keys.length; e++) if (keys[e] === key) sum += weights[e];
    return sum;
  }

  pick(panel, found) {
    const { map, held, query } = this.state;
    this.tooltip.show("", null);
    if (panel instanceof GraphPanel) {
      if (map.queries === map.keys && map.rowOf[found.key] >= 0) this.change({ query: found.key, key: -1 });
      return;
    }
    if (!(map.rowOf[found.query] >= 0)) return;
    this.change({ query: found.query, held: !(held && found.query === query), key: -1 });
  }

  // --- controls ---

  controls() {
    const by = (id) => document.getElementById(id);
    by("call").addEventListener("change", (event) => this.change({ map: maps[Number(event.target.value)] }));
    by("batch").addEventListener("change", (event) => this.change({ batch: Number(event.target.value) }));
    by("scale").addEventListener("change", (event) => this.change({ scaleKind: event.target.value }));
    by("dim").addEventListener("input", (event) => this.change({ photo: event.target.value / 100 }));
    by("head-down").addEventListener("click", () => this.change({ head: this.state.head - 1 }));
    by("head-up").addEventListener("click", () => this.change({ head: this.state.head + 1 }));
    by("search").addEventListener("keydown", (event) => {
      if (event.key === "Enter") this.search(event.target.value.trim());
      if (event.key === "Escape") this.panels[0].canvas.focus();
    });
    by("help-button").addEventListener("click", () => by("help").showModal());
    by("about-button").addEventListener("click", () => {
      by("about-text").replaceChildren(...this.about().map((text) => make("p", "", text)));
      by("about").showModal();
    });
    this.views = [false, true].map((matrix) => {
      const button = make("button", "", "Matrix");
      button.type = "button";
      button.addEventListener("click", () => this.change({ matrix }));
      by("views").append(button);
      return button;
    });
    this.modes = [["maps", "whole maps"], ["query", "this query"]].map(([overview, text]) => {
      const button = make("button", "", text);
      button.type = "button";
      button.addEventListener("click", () => this.change({ overview }));
      by("overview-modes").append(button, " ");
      return { button, overview };
    });
    const entries = maps.reduce((sum, map) => sum + map.entries, 0);
    const modules = new Set(maps.map((map) => map.path)).size;
    by("summary").textContent = `${modules} attention${modules > 1 ? "s" : ""}, ${maps.length} map${maps.length > 1 ? "s" : ""}, ${entries.toLocaleString("en")} weights`;
  }

  /** Go to the position of a number, or to the next one whose label has a text. */
  search(text) {
    const { map, batch, query } = this.state;
    const field = document.getElementById("search");
    const fits = (k) => map.queries.label(k, batch).toLowerCase().includes(text.toLowerCase());
    let found = /^\d+$/.test(text) ? Number(text) : -1;
    if (text && found < 0) {
      const at = map.rowOf[query];
      for (let k = 1; k <= map.stored.length && found < 0; k++) {
        const next = map.stored[(at + k) % map.stored.length];
        if (fits(next)) found = next;
      }
    }
    const there = map.rowOf[found] >= 0;
    field.setCustomValidity(there || !text ? "" : `no query ${text} in this map`);
    field.reportValidity();
    this.pointing = false;
    if (there) this.change({ query: found, held: true, key: -1 });
  }

  /** The texts of the page that follow from what is chosen. */
  words({ map, batch, head, query, held, matrix, scaleKind, photo, overview }) {
    const name = [map.number, batch, head, query, held, matrix, scaleKind, overview].join();
    if (name === this.said) return;
    this.said = name;
    const by = (id) => document.getElementById(id);
    const calls = maps.filter((other) => other.path === map.path);
    by("path").textContent = map.path || "(the model)";
    by("formula").textContent = [map.normalize, map.score && `score ${map.score}`, map.kernel && `kernel ${map.kernel}`].filter(Boolean).join(" · ");
    by("head").textContent = head < 0 ? "mean" : map.heads[head];
    by("call-field").hidden = calls.length < 2;
    options(by("call"), calls.map((other) => [other.number, other.call]), map.number);
    by("batch-field").hidden = map.batch < 2;
    options(by("batch"), Array.from({ length: map.batch }, (_, k) => [k, k]), batch);
    by("scale").value = scaleKind;
    by("dim").value = Math.round(100 * photo);
    by("dim-field").hidden = !this.photos.length || !map.keys.picture || matrix;
    const main = map.listed ? "Graph" : map.keys.picture ? (this.photos.length ? "Picture" : "Grid") : map.keys.named ? "Text" : "List";
    this.views[0].textContent = main;
    this.views.forEach((button, k) => button.setAttribute("aria-pressed", matrix === Boolean(k)));
    this.modes.forEach(({ button, overview: mode }) => button.setAttribute("aria-pressed", overview === mode));
    const status = by("status");
    status.replaceChildren(make("b", "", `query ${map.queries.name(query, batch)}`));
    const graph = map.listed && !matrix;
    const hint = graph ? " · arrows go through the nodes, or search one by number" : held ? " · held: point at keys to read weights; Esc lets it go" : " · point to choose another; click to hold it";
    status.append(hint);
  }

  announce({ map, batch, query, row }) {
    const best = largestOf(row.weights, 3).map((e) => `${map.keys.name(row.keys[e], batch)} ${number(row.weights[e])}`);
    document.getElementById("announce").textContent = `Query ${map.queries.name(query, batch)} takes most from ${best.join("; ") || "nothing"}`;
  }

  about() {
    const { map } = this.state;
    const peak = 2 ** (map.bits - Number(map.signed)) - 1;
    const error = Math.max(...maps.map((one) => one.error));
    const least = (1 / (4 * peak ** 2)).toExponential(1);
    return [
      `A weight is how much a query takes from a key: y[i] = sum over j of w[i, j] × message[i, j].`,
      `Of a weight w the root of w / largest of its row is kept, as a whole number of ${map.bits} bits. What is shown is wrong by at most √(w × largest) / ${peak}; none that is kept is wrong by more than ${error.toExponential(1)}.`,
      map.listed ? "All listed pairs are kept, also those whose weight rounds to 0." : `Weights below ${least} of their row’s largest round to 0 and are left out: that is the threshold.`,
      given.top === null ? "" : `Of each row only the ${given.top} largest weights were kept.`,
      `This map: ${map.queries.count} queries (${map.stored.length} shown), ${map.keys.count} keys, ${map.heads.length} head${map.heads.length > 1 ? "s" : ""}, ${map.entries.toLocaleString("en")} weights.`,
    ].filter(Boolean);
  }

  // --- keys ---

  keyboard(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    if (event.target.closest?.("input, select, textarea")) return;
    const { state } = this;
    const button = event.target.closest?.("button, [role=button]");
    const layer = (by) => () => this.change({ map: maps[clamp(state.map.number + by, 0, maps.length - 1)] });
    const move = (across, down) => () => this.move(across, down);
    const keys = {
      ArrowLeft: move(-1, 0),
      ArrowRight: move(1, 0),
      ArrowUp: event.shiftKey ? layer(-1) : move(0, -1),
      ArrowDown: event.shiftKey ? layer(1) : move(0, 1),
      PageUp: layer(-1),
      PageDown: layer(1),
      "[": () => this.change({ head: state.head - 1 }),
      "]": () => this.change({ head: state.head + 1 }),
      Enter: button ? null : () => this.change({ held: true }),
      Escape: () => this.change({ held: false, key: -1 }),
      v: () => this.change({ matrix: !state.matrix }),
      "/": () => document.getElementById("search").focus(),
      "?": () => document.getElementById("help").showModal(),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    this.pointing = false;
    this.tooltip.show("", null);
    keys[event.key]();
  }

  /** Another query, in the direction of an arrow; it goes over queries that were not kept. */
  move(across, down) {
    const { map } = this.state;
    const panel = this.panels.find((one) => one.asks) ?? this.panels[0];
    let next = this.state.query;
    for (let tries = 0; tries < map.queries.count; tries++) {
      const before = next;
      next = panel.step(next, across, down);
      if (next === before || next < 0 || next >= map.queries.count) return;
      if (map.rowOf[next] >= 0) return this.change({ query: next, key: -1 });
    }
  }

  // --- the address ---

  remember() {
    const { map, batch, head, query, held, matrix, scaleKind, overview } = this.state;
    const all = { at: map.path, call: map.call, batch, head: head < 0 ? "mean" : map.heads[head], query, view: matrix ? "matrix" : "main", scale: scaleKind, small: overview, held: Number(held) };
    const hash = `#${new URLSearchParams(all)}`;
    if (location.hash !== hash) history.replaceState(null, "", hash);
  }

  /** Choose what the address says; what it does not say, or what is not there, stays. */
  restore() {
    const said = new URLSearchParams(location.hash.slice(1));
    const { state } = this;
    const map = maps.find((m) => m.path === said.get("at") && String(m.call) === said.get("call")) ?? maps.find((m) => m.path === said.get("at")) ?? state.map;
    const whole = (name, otherwise) => (/^\d{1,9}$/.test(said.get(name) ?? "") ? Number(said.get(name)) : otherwise);
    const head = said.get("head") === "mean" ? -1 : map.heads.indexOf(whole("head", -1));
    this.pointing = false;
    this.change({
      map,
      batch: whole("batch", state.batch),
      head: head >= 0 || said.get("head") === "mean" ? head : state.head,
      query: whole("query", state.query),
      held: said.has("held") ? said.get("held") === "1" : state.held,
      matrix: said.has("view") ? said.get("view") === "matrix" : state.matrix,
      scaleKind: ["row", "map", "log"].find((kind) => kind === said.get("scale")) ?? state.scaleKind,
      overview: ["maps", "query"].find((mode) => mode === said.get("small")) ?? state.overview,
    });
  }
}

/** A query to begin with: the first token beside a picture, else one from the middle. */
function middle(map) {
  return map.stored[map.queries.skip ? 0 : Math.floor(map.stored.length / 2)];
}

function clamp(x, low, high) {
  return Math.max(low, Math.min(high, x));
}

/** The options of a select element, changed only where they are others. */
function options(select, pairs, chosen) {
  const name = pairs.join(";");
  if (select.dataset.pairs !== name) {
    select.dataset.pairs = name;
    select.replaceChildren(...pairs.map(([value, text]) => Object.assign(make("option", "", `${text}`), { value })));
  }
  select.value = chosen;
}

const explorer = new Explorer();
