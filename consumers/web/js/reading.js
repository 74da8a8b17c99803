/** The reading line of a chart: values under the pointer, or at a place moved by the arrow keys. */

import { daytime, fixed, h, make, spoken } from "./dom.js";
import { swatch } from "./marks.js";

export function follow(figure) {
  figure.readAt = null;
  const hide = () => {
    figure.readAt = null;
    read(figure);
  };
  figure.addEventListener("pointermove", (event) => {
    const { left, right, x0, x1 } = figure.scale,
      at = event.clientX - figure.getBoundingClientRect().left;
    figure.readAt = x0 + Math.min(1, Math.max(0, (at - left) / (right - left))) * (x1 - x0);
    read(figure);
  });
  figure.addEventListener("pointerleave", hide);
  figure.addEventListener("blur", hide);
  figure.addEventListener("keydown", (event) => {
    const { x0, x1 } = figure.scale,
      step = (x1 - x0) / (event.shiftKey ? 10 : 60);
    const moves = { ArrowLeft: -step, ArrowRight: step, Home: -Infinity, End: Infinity };
    if (event.key === "Escape") hide();
    if (!(event.key in moves)) return;
    event.preventDefault();
    figure.readAt = Math.min(x1, Math.max(x0, (figure.readAt ?? x1) + moves[event.key]));
    read(figure);
  });
}

function nearest(points, x) {
  let low = 0,
    high = points.length - 1;
  while (high - low > 1) {
    const mid = (low + high) >> 1;
    if (points[mid].x <= x) low = mid;
    else high = mid;
  }
  return points.length
    ? Math.abs(points[low].x - x) <= Math.abs(points[high].x - x)
      ? points[low]
      : points[high]
    : null;
}

export function read(figure) {
  figure.querySelector(".read")?.remove();
  figure.querySelector(".rule")?.remove();
  if (figure.readAt === null || !figure.chart) return;
  const { X, left, right, top, bottom } = figure.scale,
    chart = figure.chart;
  const found = chart.series.map((s) => [s, nearest(s.points, figure.readAt)]).filter(([, p]) => p);
  if (!found.length) return;
  const x = found[0][1].x,
    box = h("div", { class: "read", role: "status" }, h("b", {}, daytime(x)));
  make(figure.querySelector("svg"), "line", {
    class: "rule",
    x1: X(x),
    x2: X(x),
    y1: top,
    y2: bottom,
    stroke: "var(--soft)",
  });
  for (const [one, p] of found) {
    const band = one.band ? nearest(one.band, x) : null;
    const value = chart.format(p.y) + (band ? ` [${fixed(band.low, 4)}, ${fixed(band.high, 4)}]` : "");
    box.append(h("div", {}, one.style ? null : swatch(one.name), h("span", {}, one.name), h("span", {}, value)));
  }
  const swap = (chart.swaps ?? []).findLast((s) => s.t <= x && s.kind !== "refused");
  if (swap) box.append(h("div", {}, h("span", { class: "soft" }, "model"), h("span", {}, spoken(swap.version))));
  figure.append(box);
  const room = figure.clientWidth - box.offsetWidth - 4;
  box.style.left = `${Math.max(0, Math.min(X(x) > (left + right) / 2 ? X(x) - box.offsetWidth - 12 : X(x) + 12, room))}px`;
}
