/** The process that learns: its figures over time, its health, and what was refused. */

import * as api from "../api.js";
import {
  clock,
  empty,
  fill,
  h,
  lasting,
  moment,
  ok,
  plural,
  rate,
  scroll,
  section,
  spoken,
  table,
  tag,
  tile,
  whole,
} from "../dom.js";
import { known } from "../marks.js";
import { small } from "../small.js";
import { live, points } from "../stream.js";

export const title = "Learner";

const EVERY_MS = 4000;
const FIRST = [/loss/i, /td|error/i, /grad/i, /norm/i, /weight/i, /\bq\b|value/i, /reward/i, /replay|age|memory/i];

export function mount(main) {
  const parts = {
    state: h("p", {}),
    tiles: h("dl", { class: "tiles fresh", "aria-label": "Key figures" }),
    health: h("ul", { class: "health" }),
    figures: h("div", { class: "grid fresh" }),
    none: h("div", { class: "card" }),
    rejected: h("div"),
  };
  main.append(
    h("div", { class: "title" }, h("h1", {}, "Learner"), parts.state),
    parts.tiles,
    section(
      "health",
      "Health of the service",
      "Every part must be well before the service says it is ready.",
      parts.health,
    ),
    parts.figures,
    parts.none,
    section(
      "rejected",
      "Refused versions",
      "Published by the learner and never served, or served and taken back.",
      parts.rejected,
    ),
  );
  ask(parts);
  const timer = setInterval(() => {
    if (!document.hidden) ask(parts);
  }, EVERY_MS);
  return { follow: () => follow(parts), leave: () => clearInterval(timer) };
}

async function ask(parts) {
  const [health, models] = await Promise.allSettled([api.health(), api.models()]);
  parts.health.replaceChildren(
    ...(health.value
      ? Object.entries(health.value.parts ?? {}).map(part)
      : [h("li", {}, h("span", { class: "soft" }, health.reason?.message ?? "not known"))]),
  );
  showRejected(parts.rejected, models);
}

const part = ([name, { ok: well, says }]) =>
  h(
    "li",
    {},
    tag(well ? "✓ well" : "▲ not well", well ? "good" : "bad"),
    h("b", {}, name),
    h("span", { class: "soft" }, says),
  );

function showRejected(box, models) {
  if (!models.value) {
    box.replaceChildren(empty("Not known", models.reason.message));
    return;
  }
  const bad = models.value.filter((m) => m.state === "rejected" || m.state === "rolled_back");
  if (!bad.length) {
    box.replaceChildren(empty("None", "Every version that was published could be served."));
    return;
  }
  const { body, node } = table("Refused versions", ["Version", ["What happened", "left"], ["Reason", "left"], "Made"]);
  for (const m of bad) {
    body.append(
      h(
        "tr",
        {},
        h("th", { scope: "row", class: "mono", title: m.version }, spoken(m.version)),
        h("td", { class: "left" }, tag(m.state.replace("_", " "), "bad")),
        h("td", { class: "wrap" }, m.reason || "no reason given"),
        h("td", {}, moment(m.made)),
      ),
    );
  }
  box.replaceChildren(scroll("Refused versions", node));
}

function follow(parts) {
  const last = live.last;
  if (!last) return;
  const { learner } = last;
  parts.state.replaceChildren(tag(learner.alive ? "● running" : "▲ not running", learner.alive ? "good" : "bad"));
  fill(
    parts.tiles,
    tile("Updates per second", rate(learner.updates_per_s), "", plural(learner.updates, "update")),
    tile(
      "Restarts",
      whole(learner.restarts),
      "",
      learner.restarts ? "the learner ended and was started again" : "never had to be started again",
      learner.restarts > 0,
    ),
    tile(
      "Refused versions",
      whole(learner.rejected),
      "",
      learner.rejected ? "see below" : "all could be served",
      learner.rejected > 0,
    ),
    tile(
      "Event → weights, p50",
      lasting(last.latency_ms.event_to_weights?.p50),
      "",
      `service up ${clock(last.uptime_s)}`,
    ),
  );
  showFigures(parts, last);
}

const order = (name) => {
  const at = FIRST.findIndex((pattern) => pattern.test(name));
  return at < 0 ? FIRST.length : at;
};

function showFigures(parts, last) {
  const names = [...new Set(live.rows.slice(-300).flatMap((r) => Object.keys(r.record.learner.figures ?? {})))].sort(
    (a, b) => order(a) - order(b) || a.localeCompare(b),
  );
  parts.none.hidden = names.length > 0;
  if (!names.length)
    parts.none.replaceChildren(empty("No figures yet", "The learner sends them with its first update."));
  for (const name of names) {
    const owner = name.split(/[./]/)[0],
      look = known(owner) ?? { color: "var(--c0)" };
    const series = [
      {
        name,
        style: { color: look.color, dash: "", marker: "circle" },
        points: points((r) => r.learner.figures?.[name]),
      },
    ];
    small(parts.figures, name, name.split(/[./]/).join(" · "), series, last.t, false);
  }
  const updates = [
    {
      name: "updates",
      style: { color: "var(--c0)", dash: "", marker: "circle" },
      points: points((r) => (ok(r.learner.updates_per_s) ? r.learner.updates_per_s : NaN)),
    },
  ];
  small(parts.figures, "updates", "Updates per second", updates, last.t);
}
