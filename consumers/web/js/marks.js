/** Series: colour, dash and marker of each, and the small pictures made of them. */

import { fixed, make, ok } from "./dom.js";

const DASHES = ["", "7 3", "2 3", "10 3 2 3", "5 2", "12 4", "1 3"];
const MARKERS = ["circle", "square", "triangle", "diamond", "cross", "ring", "down"];
const styles = new Map();

/** What a series looks like; the same name always looks the same. */
export function style(name) {
  if (!styles.has(name)) {
    const at = [...styles.keys()].filter((known) => known !== "random").length;
    styles.set(
      name,
      name === "random"
        ? { color: "var(--c-base)", dash: "4 3", marker: "ring" }
        : { color: `var(--c${at % 7})`, dash: DASHES[at % 7], marker: MARKERS[at % 7] },
    );
  }
  return styles.get(name);
}

export const known = (name) => styles.get(name);

export function marker(parent, kind, x, y, color, r = 3.6) {
  const paths = {
    square: `M${x - r},${y - r}h${2 * r}v${2 * r}h${-2 * r}z`,
    triangle: `M${x},${y - r * 1.25}l${r * 1.2},${r * 2.1}h${-2.4 * r}z`,
    down: `M${x},${y + r * 1.25}l${r * 1.2},${-r * 2.1}h${-2.4 * r}z`,
    diamond: `M${x},${y - r * 1.35}l${r * 1.35},${r * 1.35}l${-r * 1.35},${r * 1.35}l${-r * 1.35},${-r * 1.35}z`,
    cross: `M${x - r},${y - r}l${2 * r},${2 * r}M${x - r},${y + r}l${2 * r},${-2 * r}`,
  };
  if (paths[kind]) {
    const drawn = kind === "cross" ? { fill: "none", stroke: color, "stroke-width": 2 } : { fill: color };
    return make(parent, "path", { d: paths[kind], ...drawn });
  }
  const ring = kind === "ring";
  return make(parent, "circle", {
    cx: x,
    cy: y,
    r: ring ? r - 0.6 : r,
    fill: ring ? "var(--card)" : color,
    stroke: color,
    "stroke-width": ring ? 1.8 : 0,
  });
}

export function swatch(name) {
  const { color, dash, marker: kind } = style(name);
  const svg = make(null, "svg", { width: 30, height: 12, "aria-hidden": "true" });
  make(svg, "line", { x1: 1, x2: 29, y1: 6, y2: 6, stroke: color, "stroke-width": 2, "stroke-dasharray": dash });
  marker(svg, kind, 15, 6, color);
  return svg;
}

/** The interval of one policy on the scale that all share, cut at its ends; a line marks the baseline. */
export function whisker(name, p, base, [low, high]) {
  if (!ok(p.low) || !ok(p.high) || !(high > low)) return "";
  const width = 130,
    X = (v) => 7 + Math.min(1, Math.max(0, (v - low) / (high - low))) * (width - 14),
    { color, marker: kind } = style(name);
  const svg = make(null, "svg", {
    width,
    height: 16,
    role: "img",
    "aria-label": `${name}: interval on the common scale`,
  });
  if (base && ok(base.reward))
    make(svg, "line", {
      x1: X(base.reward),
      x2: X(base.reward),
      y1: 0,
      y2: 16,
      stroke: "var(--edge)",
      "stroke-width": 1.5,
    });
  make(svg, "line", { x1: X(p.low), x2: X(p.high), y1: 8, y2: 8, stroke: color, "stroke-width": 2 });
  for (const end of [p.low, p.high])
    make(svg, "line", { x1: X(end), x2: X(end), y1: 5, y2: 11, stroke: color, "stroke-width": 2 });
  marker(svg, kind, X(p.reward), 8, color);
  return svg;
}

/** Values in order as a line without axes. */
export function sparkline(label, values, color, width = 96, height = 20) {
  if (values.length < 2) return "";
  const low = Math.min(...values),
    high = Math.max(...values);
  const y = (v) => height - 4 - (high > low ? (v - low) / (high - low) : 0.5) * (height - 8);
  const at = (v, i) => `${(2 + (i / (values.length - 1)) * (width - 8)).toFixed(1)},${y(v).toFixed(1)}`;
  const svg = make(null, "svg", {
    width,
    height,
    role: "img",
    "aria-label": `${label}: between ${fixed(low, 3)} and ${fixed(high, 3)}`,
  });
  make(svg, "polyline", {
    points: values.map(at).join(" "),
    fill: "none",
    stroke: color,
    "stroke-width": 1.5,
    "stroke-linejoin": "round",
  });
  const [x, last] = at(values.at(-1), values.length - 1).split(",");
  make(svg, "circle", { cx: x, cy: last, r: 2.2, fill: color });
  return svg;
}
