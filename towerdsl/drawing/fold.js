// Groups fold at a click on their title: the same coordinates as `place` in layout.py, for other groups that are open.
// MODEL is the root group; a box is {id, size: [left, right, height, label], ins, outs}, a group also {open, rows, ...}.
function spread(row, placed) {
  const at = new Map();
  let left = 0, right = 0;
  const extent = (item) => {
    const p = placed.get(item.id);
    return [p.left, Math.max(p.right, item.size[3])];
  };
  if (row.main) {
    at.set(row.main.id, 0);
    [left, right] = extent(row.main);
  }
  for (const item of row.right) {
    const [l, r] = extent(item);
    const x = at.size ? right + SIZES.GAP + l : l;
    at.set(item.id, x);
    right = x + r;
  }
  for (const item of row.left) {
    const [l, r] = extent(item);
    const x = -(left + SIZES.GAP + r);
    at.set(item.id, x);
    left = l - x;
  }
  return at;
}

const boxes = (row) => [...(row.main ? [row.main] : []), ...row.left, ...row.right];

function place(item) {
  const [left, right, height] = item.size;
  const placed = { item, x: 0, y: 0, left, right, height, inside: new Map(), streams: [] };
  if (!item.rows || !item.open) return placed;
  const inside = placed.inside;
  for (const row of item.rows) for (const box of boxes(row)) inside.set(box.id, place(box));
  const lefts = [], rights = [], bottoms = [];
  let at = SIZES.HEAD + SIZES.PAD / 2;
  item.rows.forEach((row, k) => {
    const high = Math.max(0, ...boxes(row).map((box) => inside.get(box.id).height));
    for (const [id, x] of spread(row, inside)) {
      const p = inside.get(id);
      [p.x, p.y] = [x, at + high - p.height];
    }
    lefts.push(Math.max(0, ...boxes(row).map((b) => inside.get(b.id).left - inside.get(b.id).x)));
    rights.push(Math.max(0, ...boxes(row).map((b) => inside.get(b.id).x + Math.max(inside.get(b.id).right, b.size[3]))));
    bottoms.push(at + high);
    at += high + (item.labels[k] ? SIZES.LABEL : 0) + SIZES.TURN * item.turns[k] + SIZES.ARROW;
  });
  const lanes = item.lanes.map(([side, first, last], k) => {
    const extents = side < 0 ? lefts : rights;
    const ends = item.edges
      .filter((edge) => edge[9] === k)
      .map(([, , , to, input]) => side * (inside.get(to).x + inside.get(to).item.ins[input]));
    const far = Math.max(Math.max(...extents.slice(first, last + 1)) + SIZES.LANE, ...ends);
    extents.fill(far, first + 1, last + 1);
    return side * far;
  });
  placed.left = Math.max(left, Math.max(...lefts) + SIZES.PAD);
  placed.right = Math.max(right, Math.max(...rights) + SIZES.PAD);
  placed.height = bottoms[bottoms.length - 1];
  const turn = (gap, number) =>
    bottoms[gap] + (item.labels[gap] ? SIZES.LABEL : 0) + SIZES.TURN * number + SIZES.TURN / 2;
  for (const [id, from, output, to, input, first, last, leave, enter, lane, sideways] of item.edges) {
    const source = inside.get(from), target = inside.get(to);
    const x = source.x + source.item.outs[output], start = [x, bottoms[first]];
    const y = turn(first, leave), way = lanes[lane];
    let end = [target.x + target.item.ins[input], target.y], points;
    if (sideways) {
      const middle = target.y + target.height / 2;
      end = [target.x + sideways * target.right, middle];
      points = lane < 0 ? [start, [x, middle], end] : [start, [x, y], [way, y], [way, middle], end];
    } else if (lane < 0) {
      const straight = Math.abs(x - end[0]) < SIZES.STRAIGHT;
      points = straight ? [start, [x, end[1]]] : [start, [x, y], [end[0], y], end];
    } else {
      const behind = turn(last - 1, enter);
      points = [start, [x, y], [way, y], [way, behind], [end[0], behind], end];
    }
    placed.streams.push([id, points]);
  }
  return placed;
}

function line(points) {
  const kept = points.filter((p, k) => k === 0 || p[0] !== points[k - 1][0] || p[1] !== points[k - 1][1]);
  let text = `M${kept[0]}`;
  for (let k = 1; k + 1 < kept.length; k++) {
    const at = kept[k];
    const [a, b] = [kept[k - 1], kept[k + 1]].map((other) => {
      const length = Math.abs(other[0] - at[0]) + Math.abs(other[1] - at[1]);
      const part = Math.min(SIZES.ROUND, length / 2) / length;
      return [at[0] + (other[0] - at[0]) * part, at[1] + (other[1] - at[1]) * part];
    });
    text += `L${a}Q${at} ${b}`;
  }
  return text + `L${kept[kept.length - 1]}`;
}

if (typeof document !== "undefined") {
  const svg = document.currentScript.closest("svg");
  const elements = new Map([...svg.querySelectorAll("[data-id]")].map((e) => [+e.dataset.id, e]));
  const labels = new Map([...svg.querySelectorAll("[data-of]")].map((e) => [+e.dataset.of, e]));
  const groups = new Map();
  const set = (element, values) => Object.entries(values).forEach(([name, value]) => element.setAttribute(name, value));

  const show = (placed) => {
    const { item, x, y, left, right, height } = placed, element = elements.get(item.id);
    element.setAttribute("transform", `translate(${x} ${y})`);
    if (labels.has(item.id)) labels.get(item.id).setAttribute("transform", `translate(${x} ${y + height})`);
    if (!item.rows) return;
    const find = (name) => element.querySelector(`:scope > .${name}`);
    set(find("frame"), { x: -left, width: left + right, height });
    set(find("head"), { x: -left, width: left + right });
    set(find("title"), { x: 10 - left });
    find("title").textContent = (item.open ? "▾" : "▸") + find("title").textContent.slice(1);
    if (item.open) find("inside").removeAttribute("display");
    else find("inside").setAttribute("display", "none");
    for (const inner of placed.inside.values()) show(inner);
    for (const [id, points] of placed.streams) elements.get(id).setAttribute("d", line(points));
  };

  const draw = () => {
    const placed = place(MODEL);
    show(placed);
    const x = -placed.left - SIZES.MARGIN, y = -SIZES.MARGIN;
    const width = placed.left + placed.right + 2 * SIZES.MARGIN, height = placed.height + 2 * SIZES.MARGIN;
    set(svg, { viewBox: `${x} ${y} ${width} ${height}`, width, height });
    set(svg.querySelector(":scope > .page"), { x, y, width, height });
  };

  const collect = (item) => {
    if (!item.rows) return;
    groups.set(item.id, item);
    item.rows.flatMap(boxes).forEach(collect);
  };
  collect(MODEL);
  for (const [id, item] of groups) {
    elements.get(id).querySelector(":scope > .head").addEventListener("click", () => {
      item.open = !item.open;
      draw();
    });
  }
}
