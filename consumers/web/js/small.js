/** Small charts, one to a card. */

import { draw } from "./charts.js";
import { h, short } from "./dom.js";

/** A chart of its own card, made once and drawn again. */
export function small(box, id, name, series, to, zero = true) {
  let node = box.querySelector(`[data-chart="${CSS.escape(id)}"]`);
  if (!node) {
    node = h(
      "section",
      { class: "card", "data-chart": id },
      h("div", { class: "head" }, h("h2", {}, name, h("span", { class: "soft" }))),
      h("figure", { tabindex: 0 }),
    );
    box.append(node);
  }
  const shown = series.filter((s) => s.points.length);
  node.hidden = !shown.length;
  if (!shown.length) return;
  const now = shown.map((s) => `${shown.length > 1 ? `${s.name} ` : ""}${short(s.points.at(-1).y)}`).join(" · ");
  node.querySelector("h2 .soft").textContent = now;
  draw(node.querySelector("figure"), {
    series: shown,
    to,
    zero,
    height: 150,
    format: short,
    label: `${name} over time, now ${now}`,
  });
}
