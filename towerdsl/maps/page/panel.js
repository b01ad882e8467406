"use strict";
// What all panels share: a canvas as large as what is visible of it, hit testing, and the keyboard's way to it.

/**
 * A picture of positions that can be pointed at. A subclass lays positions out (`arrange`, which says how high they
 * stand), draws those that are visible (`paint`), finds the one under the pointer (`hit`), and the next one in a
 * direction (`step`). A position is {query} or {key}, or both where a panel shows pairs.
 */
class Panel {
  constructor(side, role, events) {
    Object.assign(this, { side, role, events });
    this.element = make("div", "panel");
    this.canvas = make("canvas");
    this.canvas.tabIndex = 0;
    this.canvas.setAttribute("role", "slider"); // it chooses one of the queries
    this.spacer = make("div");
    this.element.append(this.canvas, this.spacer);
    this.context = this.canvas.getContext("2d", { alpha: false });
    const at = (event) => this.hit(event.offsetX, event.offsetY + this.element.scrollTop);
    this.canvas.addEventListener("pointermove", (event) => events.point(this, at(event), event));
    this.canvas.addEventListener("pointerleave", () => events.point(this, {}, null));
    this.canvas.addEventListener("click", (event) => events.pick(this, at(event)));
    this.element.addEventListener("scroll", () => events.redraw(), { passive: true });
  }

  /** Whether its positions are queries, or keys, or both. */
  get asks() {
    return this.role !== "keys";
  }
  get answers() {
    return this.role !== "queries";
  }

  /** Fit the canvas to the element; lay out anew. */
  resize(view) {
    const ratio = window.devicePixelRatio || 1;
    this.width = Math.max(40, this.element.clientWidth);
    this.height = Math.max(40, this.element.clientHeight);
    const total = this.arrange(view);
    this.canvas.width = this.width * ratio;
    this.canvas.height = this.height * ratio;
    this.canvas.style.width = `${this.width}px`;
    this.canvas.style.height = `${this.height}px`;
    this.spacer.style.height = `${Math.max(0, total - this.height)}px`;
    this.ratio = ratio;
  }

  draw(view) {
    const { context, ratio } = this;
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.fillStyle = view.theme.ground;
    context.fillRect(0, 0, this.width, this.height);
    context.translate(0, -this.element.scrollTop);
    this.paint(context, view);
    this.canvas.setAttribute("aria-valuemin", 0);
    this.canvas.setAttribute("aria-valuemax", view.map.queries.count - 1);
    this.canvas.setAttribute("aria-valuenow", view.query);
    this.canvas.setAttribute("aria-valuetext", view.map.queries.name(view.query, view.batch));
    this.canvas.setAttribute("aria-label", `Queries of ${view.map.path}`);
  }

  /** Scroll so that a stretch of the content can be seen. */
  show(top, bottom) {
    const { scrollTop } = this.element;
    if (top < scrollTop + 30) this.element.scrollTop = top - 40;
    else if (bottom > scrollTop + this.height - 30) this.element.scrollTop = bottom - this.height + 40;
  }

  /** Scroll to a query; panels that show all they have do nothing. */
  reveal() {}

  arrange() {
    return 0;
  }

  /** The next query in a direction: by number, unless positions have places in two dimensions. */
  step(query, across, down) {
    return query + across + down;
  }

  /** A dot in a corner: this position can be asked, others cannot. */
  dot(context, view, x, y) {
    context.beginPath();
    context.arc(x, y, 2.5, 0, 7);
    context.fillStyle = view.theme.accent;
    context.fill();
  }

  /** A frame around a rectangle: solid for the query, thin for the key that is pointed at. */
  frame(context, view, x, y, width, height, what) {
    context.lineWidth = what === "query" ? 2.5 : 1.5;
    context.strokeStyle = what === "query" ? view.theme.accent : view.theme.ink;
    context.strokeRect(x, y, width, height);
  }
}

function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}
