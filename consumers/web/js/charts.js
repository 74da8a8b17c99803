/** Lines over time with bands and marks, in SVG; nothing but what the pages need. */

import { daytime, make, short } from "./dom.js";
import { marker, style } from "./marks.js";
import { follow, read } from "./reading.js";

const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 43200, 86400];
export const LEAST_S = 60; // seconds a chart shows at least: the newest point is at the right from the start
const GAP_S = 8;
let clips = 0;

function ticks(low, high, count) {
  const raw = (high - low) / Math.max(1, count),
    power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * 0.999) ?? raw;
  const out = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) out.push(+(i * step).toPrecision(12));
  return out;
}

/** All with the same number of decimals. */
function tickNames(values) {
  const most = Math.max(0, ...values.map((v) => (`${v}`.split(".")[1] ?? "").length));
  return values.map((v) => (Math.abs(v) >= 1e4 || most > 5 ? short(v) : v.toFixed(most)));
}

function timeTicks(low, high, count) {
  const raw = (high - low) / Math.max(1, count);
  const step = STEPS.find((s) => s >= raw) ?? Math.ceil(raw / 86400) * 86400;
  const out = [];
  for (let x = Math.ceil(low / step) * step; x <= high + 1e-9; x += step) out.push(x);
  return { at: out, withSeconds: step < 60 };
}

/** Fewer points than pixels: every stride-th point and always the last. */
function thinned(points, most) {
  if (points.length <= most) return points;
  const stride = Math.ceil(points.length / most);
  return points.filter((_, i) => i % stride === 0 || i === points.length - 1);
}

function domain(chart) {
  let low = chart.zero ? 0 : Infinity,
    high = -Infinity;
  const take = (v) => {
    if (v < low) low = v;
    if (v > high) high = v;
  };
  for (const rough of [false, true]) {
    // values that swing at first set the scale only where there are no others
    for (const one of chart.series) {
      for (const p of one.points) if (rough || !p.rough) take(p.y);
      for (const b of one.band ?? [])
        if (rough || !b.rough) {
          take(b.low);
          take(b.high);
        }
    }
    if (high > -Infinity) break;
  }
  if (!(high > low))
    [low, high] = chart.zero
      ? [0, Math.max(1, high)]
      : [low - (Math.abs(low) * 0.1 || 0.5), low + (Math.abs(low) * 0.1 || 0.5)];
  const room = (high - low) * 0.08;
  return [chart.zero ? low : low - room, high + room];
}

/**
 * Draw a chart into a figure: {series: [{name, points: [{x, y, rough}], band: [{x, low, high}], style}], swaps, from, to,
 * format, zero, ends, height, label}. x are epoch seconds; `swaps` are {t, kind, text}, ticks below the plot.
 */
export function draw(figure, chart) {
  figure.chart = chart;
  if (!figure.clip) {
    figure.clip = `clip-${++clips}`;
    follow(figure);
  }
  const width = Math.max(240, figure.clientWidth),
    height = chart.height;
  const [low, high] = domain(chart),
    yTicks = ticks(low, high, height / (height < 200 ? 36 : 46)),
    names = tickNames(yTicks);
  const wide = chart.ends && width > 620;
  const room = wide ? Math.max(...chart.series.map((s) => s.name.length)) * 7 + 22 : 14;
  const left = 12 + 7.2 * Math.max(...names.map((name) => name.length)),
    right = width - Math.min(room, width * 0.3);
  const xs = chart.series.flatMap((s) => (s.points.length ? [s.points[0].x, s.points.at(-1).x] : []));
  const x1 = chart.to ?? Math.max(...xs),
    x0 = Math.min(chart.from ?? Math.min(...xs), x1 - LEAST_S);
  const strip = chart.swaps ? 26 : 0,
    top = 10,
    bottom = height - 24 - strip;
  const X = (x) => left + ((x - x0) / (x1 - x0)) * (right - left),
    Y = (y) => top + ((high - y) / (high - low)) * (bottom - top);
  figure.scale = { X, Y, x0, x1, left, right, top, bottom, strip };

  const svg = make(null, "svg", { viewBox: `0 0 ${width} ${height}`, height, role: "img", "aria-label": chart.label });
  const clip = make(make(svg, "defs"), "clipPath", { id: figure.clip });
  make(clip, "rect", { x: left, y: top, width: Math.max(0, right - left + 6), height: bottom - top });
  yTicks.forEach((y, i) => {
    make(svg, "line", { x1: left, x2: right, y1: Y(y), y2: Y(y), stroke: "var(--grid)" });
    make(svg, "text", { x: left - 8, y: Y(y) + 4, "text-anchor": "end" }, names[i]);
  });
  const times = timeTicks(x0, x1, (right - left) / 96);
  for (const x of times.at)
    make(
      svg,
      "text",
      { x: Math.min(X(x), width - (times.withSeconds ? 28 : 18)), y: height - 6, "text-anchor": "middle" },
      daytime(x, times.withSeconds),
    );
  if (chart.swaps) drawSwaps(svg, chart.swaps, figure.scale);
  if (chart.swaps && wide) make(svg, "text", { x: right + 10, y: bottom + 19, class: "end" }, chart.version);
  const inner = make(svg, "g", { "clip-path": `url(#${figure.clip})` });
  for (const one of chart.series) drawBand(inner, one, X, Y, width);
  for (const one of chart.series) drawLine(inner, svg, one, figure.scale, width, chart);
  if (wide) drawEnds(svg, chart, figure.scale);
  figure.querySelector("svg")?.remove();
  figure.prepend(svg);
  read(figure);
}

/** Model versions under the plot: a tick per swap, a sign where one was refused, rolled back or chosen by hand. */
function drawSwaps(svg, swaps, { X, x0, x1, left, right, bottom }) {
  const y = bottom + 15;
  make(svg, "line", {
    x1: left,
    x2: right,
    y1: y,
    y2: y,
    stroke: "var(--line)",
    "stroke-width": 9,
    "stroke-linecap": "round",
  });
  const shown = swaps.filter((s) => s.t >= x0 && s.t <= x1);
  const served = shown
    .filter((s) => s.kind === "swap")
    .map((s) => `M${X(s.t).toFixed(1)},${y - 5}v10`)
    .join("");
  if (served) make(svg, "path", { d: served, stroke: "var(--c0)", "stroke-width": 1.5, fill: "none" });
  for (const swap of shown.filter((s) => s.kind !== "swap")) {
    const [kind, color] = {
      refused: ["cross", "var(--bad)"],
      back: ["down", "var(--bad)"],
      chosen: ["diamond", "var(--good)"],
    }[swap.kind];
    make(marker(svg, kind, X(swap.t), y, color, 4.6), "title", {}, swap.text);
  }
}

/** The stretches without a long silence: nothing is drawn across a time of which nothing is known. */
function stretches(points) {
  if (!points.length) return [];
  const silence = Math.max(GAP_S, (4 * (points.at(-1).x - points[0].x)) / points.length);
  const out = [[points[0]]];
  for (let i = 1; i < points.length; i++) {
    if (points[i].x - points[i - 1].x > silence) out.push([]);
    out.at(-1).push(points[i]);
  }
  return out;
}

function drawBand(parent, one, X, Y, width) {
  for (const points of stretches(thinned(one.band ?? [], width / 2))) {
    const up = points.map((b) => `${X(b.x).toFixed(1)},${Y(b.high).toFixed(1)}`);
    const down = points.map((b) => `${X(b.x).toFixed(1)},${Y(b.low).toFixed(1)}`).reverse();
    make(parent, "polygon", { points: [...up, ...down].join(" "), fill: style(one.name).color, opacity: 0.16 });
  }
}

function drawLine(inner, svg, one, scale, width, chart) {
  const { X, Y } = scale,
    { color, dash, marker: kind } = one.style ?? style(one.name);
  if (!one.points.length) return;
  const points = thinned(one.points, width / 1.5);
  const line = (stretch) => stretch.map((p, i) => `${i ? "L" : "M"}${X(p.x).toFixed(1)},${Y(p.y).toFixed(1)}`).join("");
  const d = stretches(points).map(line).join("");
  make(inner, "path", {
    d,
    fill: "none",
    stroke: color,
    "stroke-width": 2,
    "stroke-dasharray": dash,
    "stroke-linejoin": "round",
  });
  if (chart.ends && points.length > 12) {
    for (let i = 1; i < 6; i++) {
      // a few markers on the way, at steady places
      const p = points[Math.floor((points.length * i) / 6)];
      marker(inner, kind, X(p.x), Y(p.y), color);
    }
  }
  const last = points.at(-1),
    y = Y(last.y);
  if (y >= scale.top - 4 && y <= scale.bottom + 4) marker(svg, kind, X(last.x), y, color);
}

/** Names at the right end of the lines, moved apart where they would meet. */
function drawEnds(svg, chart, { X, Y, top, bottom }) {
  const ends = chart.series
    .filter((s) => s.points.length)
    .map((s) => {
      const last = s.points.at(-1);
      return { name: s.name, x: X(last.x) + 10, y: Math.min(Math.max(Y(last.y), top), bottom) };
    })
    .sort((a, b) => a.y - b.y);
  for (let i = 1; i < ends.length; i++) ends[i].y = Math.max(ends[i].y, ends[i - 1].y + 15);
  const over = ends.length ? ends.at(-1).y - bottom : 0;
  if (over > 0)
    for (let i = ends.length - 1, most = bottom; i >= 0; i--, most -= 15) ends[i].y = Math.min(ends[i].y, most);
  for (const end of ends) make(svg, "text", { x: end.x, y: end.y + 4, class: "end" }, end.name);
}
