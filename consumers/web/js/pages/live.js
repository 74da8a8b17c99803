/** How the service is doing right now. */

import {
  clock,
  duration,
  empty,
  fill,
  h,
  lasting,
  ok,
  percent,
  plural,
  rate,
  scroll,
  section,
  short,
  spoken,
  tile,
  whole,
} from "../dom.js";
import { small } from "../small.js";
import { live, points } from "../stream.js";
import { showReward } from "./rewards.js";

export const title = "Live";

const PLAIN = { color: "var(--c0)", dash: "", marker: "circle" };
const SECOND = { color: "var(--c1)", dash: "5 3", marker: "triangle" };
const WINDOWS = [
  ["300", "5 min"],
  ["1800", "30 min"],
  ["0", "all"],
];
let span = 300;

export function mount(main) {
  const parts = {
    about: h("p", { class: "fresh" }, ""),
    tiles: h("dl", { class: "tiles fresh", "aria-label": "Key figures" }),
    plot: h("figure", { tabindex: 0, class: "fresh" }),
    strip: h("p", { class: "strip-note soft" }),
    policies: h("div"),
    chain: h("ol", { class: "chain fresh" }),
    small: h("div", { class: "grid four fresh" }),
    feedback: h("dl", { class: "pairs" }),
    waiting: h("div", { class: "card" }, empty("Waiting for the first figures", "They come once a second.")),
    body: h("div", { hidden: true }),
  };
  const choose = h(
    "fieldset",
    { class: "switch right" },
    h("legend", {}, "How far back"),
    WINDOWS.map(([value, name]) =>
      h(
        "label",
        {},
        h("input", {
          type: "radio",
          name: "span",
          value,
          checked: +value === span,
          change: () => {
            span = +value;
            follow(parts);
          },
        }),
        h("span", {}, name),
      ),
    ),
  );
  parts.body.append(
    parts.tiles,
    section(
      "reward",
      "Reward per decision",
      "Mean per policy; the band is its 95 % interval.",
      parts.plot,
      parts.strip,
      scroll("Policies", parts.policies),
    ),
    section("chain", "From an event to what is served", "Medians, with the 95th percentile below.", parts.chain),
    parts.small,
    section("feedback", "What came in", "Counted since the service started.", parts.feedback),
  );
  parts.body.querySelector("#reward .head").append(choose);
  main.append(h("div", { class: "title" }, h("h1", {}, "Live"), parts.about), parts.waiting, parts.body);
  return { follow: () => follow(parts) };
}

function follow(parts) {
  const last = live.last;
  parts.waiting.hidden = last !== null;
  parts.body.hidden = last === null;
  if (!last) return;
  parts.about.textContent = about(last);
  fill(parts.tiles, tiles(last));
  showReward(parts, last, since());
  fill(parts.chain, chain(last.latency_ms));
  showSmall(parts.small, last);
  fill(parts.feedback, feedback(last.counts));
}

function about(last) {
  const shadow = last.shadow
    ? ` · shadow ${spoken(last.shadow.version)} agrees in ${percent(last.shadow.agreement)}`
    : "";
  return `up ${clock(last.uptime_s)} · ${plural(last.users, "user")} · ${plural(last.items, "item")}${shadow}`;
}

/** The share of answers that explore, where a figure of the learner tells. */
function exploration(figures = {}) {
  return Object.entries(figures).find(([name, value]) => ok(value) && /epsilon|explor|temperature/i.test(name));
}

function tiles(last) {
  const { counts, lag, model, latency_ms: latency } = last,
    answer = latency.recommend ?? {},
    explored = exploration(last.learner.figures);
  const late = lag.seconds > 5;
  return [
    tile("Events per second", rate(last.events_per_s), "", plural(counts.events, "event")),
    tile("Requests per second", rate(last.requests_per_s), "", plural(counts.decisions, "decision")),
    tile(
      "Lag",
      whole(lag.records),
      "records",
      lag.records
        ? `the newest applied is ${lasting(1000 * lag.seconds)} old`
        : lag.records === 0
          ? "caught up"
          : "not known yet",
      late,
    ),
    tile("Answer, p50", ...duration(answer.p50), ok(answer.p99) ? `p99 ${lasting(answer.p99)}` : ""),
    tile(
      "Model",
      spoken(model?.version),
      "",
      model?.version
        ? `${lasting(1000 * model.age_s)} old${model.pinned ? " · pinned" : ""}`
        : "the popular list answers",
      !model?.version,
    ),
    tile("Fallbacks", whole(counts.fallbacks), "", fallbacks(last), counts.fallbacks > 0.01 * counts.decisions),
    explored
      ? tile("Exploration", short(explored[1]), "", explored[0])
      : tile("Updates per second", rate(last.learner.updates_per_s), "", plural(last.learner.updates, "update")),
    tile(
      "Dead letters",
      whole(counts.dead_letters),
      "",
      counts.dead_letters ? "records that could not be used" : "everything could be read",
      counts.dead_letters > 0,
    ),
  ];
}

function fallbacks({ counts, fallbacks: why = {} }) {
  if (!counts.fallbacks) return "every answer was the model's";
  const reasons = Object.entries(why)
    .filter(([, n]) => n)
    .map(([reason, n]) => `${reason.replaceAll("_", " ")} ${whole(n)}`);
  return reasons.length ? reasons.join(" · ") : `${percent(counts.fallbacks / counts.decisions, 1)} of the decisions`;
}

const since = () => (span ? live.last.t - span : 0);

/** Event → state → weights → served, each with how long it takes from the thing before. */
function chain(latency) {
  const steps = [
    ["Event", "appended to the log", null],
    ["State", "of the user", latency.event_to_state, "after the event"],
    ["Weights", "learned from it", latency.event_to_weights, "after the event"],
    ["Served", "with those weights", latency.weights_to_served, "after they were made"],
  ];
  return steps.map(([name, what, took, after]) =>
    h(
      "li",
      {},
      took === null
        ? null
        : h(
            "span",
            { class: "hop" },
            h("b", {}, lasting(took?.p50)),
            h("span", {}, ok(took?.p95) ? `p95 ${lasting(took.p95)}` : "not measured yet"),
            h("span", { class: "soft" }, after),
          ),
      h("span", { class: "stop" }, h("b", {}, name), h("span", { class: "soft" }, what)),
    ),
  );
}

function showSmall(box, last) {
  const from = since(),
    line = (name, value, look = PLAIN) => ({ name, style: look, points: points(value, from) });
  const charts = [
    [
      "events",
      "Events and requests per second",
      [line("events", (r) => r.events_per_s), line("requests", (r) => r.requests_per_s, SECOND)],
    ],
    ["lag", "Lag, records", [line("records", (r) => r.lag.records)]],
    [
      "answer",
      "Answer to a request, ms",
      [line("p50", (r) => r.latency_ms.recommend?.p50), line("p99", (r) => r.latency_ms.recommend?.p99, SECOND)],
    ],
    [
      "weights",
      "Event → weights, ms",
      [
        line("p50", (r) => r.latency_ms.event_to_weights?.p50),
        line("p95", (r) => r.latency_ms.event_to_weights?.p95, SECOND),
      ],
    ],
  ];
  for (const [id, name, series] of charts) small(box, id, name, series, last.t);
}

const COUNTS = [
  ["events", "Events", "taken from the log"],
  ["requests", "Requests", "asked for a list"],
  ["decisions", "Decisions", "answered"],
  ["late", "Late", "after their window"],
  ["duplicate", "Duplicate", "feedback given twice"],
  ["repeated", "Repeated", "same event id again"],
  ["unknown", "Unknown", "about no decision of ours"],
  ["dead_letters", "Dead letters", "could not be read"],
];

const feedback = (counts) =>
  COUNTS.map(([key, name, what]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, whole(counts[key])), h("dd", { class: "soft" }, what)),
  );
