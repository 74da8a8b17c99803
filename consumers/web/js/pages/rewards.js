/** What each policy earns: over time, and in a table. */

import { LEAST_S, draw } from "../charts.js";
import { empty, fixed, h, ok, percent, plural, spoken, table, whole } from "../dom.js";
import { sparkline, style, swatch, whisker } from "../marks.js";
import { live, points } from "../stream.js";

const ROUGH = 200; // the first few decisions swing between the extremes and must not set the scale

/** Policies with a line: one that hardly decided yet, such as the fallback, would only spoil the scale. */
function drawn(policies) {
  const names = Object.keys(policies),
    most = Math.max(...names.map((name) => policies[name].decisions));
  return names.filter((name) => most < ROUGH || policies[name].decisions >= ROUGH);
}

function rewardSeries(from) {
  return drawn(live.last.policies).map((name) => {
    const rows = live.rows
      .filter((r) => r.record.t >= from && ok(r.record.policies[name]?.reward))
      .map((r) => ({ x: r.record.t, ...r.record.policies[name] }));
    const rough = (p) => !(p.decisions >= ROUGH);
    return {
      name,
      points: rows.map((p) => ({ x: p.x, y: p.reward, rough: rough(p) })),
      band: rows
        .filter((p) => ok(p.low) && ok(p.high))
        .map((p) => ({ x: p.x, low: p.low, high: p.high, rough: rough(p) })),
    };
  });
}

const KINDS = { rolled_back: "back", rejected: "refused" };
const swapKind = ({ outcome, chosen }) => KINDS[outcome] ?? (chosen ? "chosen" : "swap");

function swaps() {
  return live.swaps.map((s) => ({
    ...s,
    kind: swapKind(s),
    text: `${spoken(s.version)} ${s.outcome}${s.reason ? `: ${s.reason}` : ""}`,
  }));
}

/** Draw the plot, the versions below it and the table; `since` = epoch second where the plot begins, 0 = all. */
export function showReward(parts, last, since) {
  const series = rewardSeries(since).filter((s) => s.points.length),
    marks = swaps();
  const from = Math.min(Math.max(since, Math.min(...series.flatMap((s) => s.points[0].x), last.t)), last.t - LEAST_S);
  parts.plot.hidden = !series.length;
  if (series.length) {
    const now = series.map((s) => `${s.name} ${fixed(s.points.at(-1).y, 4)}`).join(", ");
    draw(parts.plot, {
      series,
      swaps: marks,
      version: spoken(last.model?.version),
      from,
      to: last.t,
      format: (v) => fixed(v, 4),
      ends: true,
      height: 300,
      label: `Reward per decision over time. Now: ${now}.`,
    });
  }
  const shown = marks.filter((m) => m.t >= from),
    count = (kind) => shown.filter((m) => m.kind === kind).length;
  const odd = [
    ["refused", "✕"],
    ["back", "▼"],
    ["chosen", "◆"],
  ].map(([kind, sign]) => [
    count(kind),
    sign,
    { refused: "refused", back: "rolled back", chosen: "chosen by hand" }[kind],
  ]);
  parts.strip.textContent = [
    `Model versions, below the plot: ❘ ${plural(count("swap"), "swap")}`,
    ...odd.filter(([n]) => n).map(([n, sign, word]) => `${sign} ${n} ${word}`),
  ].join(" · ");
  showPolicies(parts.policies, last.policies, since);
}

function showPolicies(box, policies, since) {
  const names = Object.keys(policies),
    base = policies.random;
  if (!names.length) {
    box.replaceChildren(empty("No decision has been rewarded yet", "A reward is known once its window has passed."));
    return;
  }
  const all = names.reduce((sum, name) => sum + policies[name].decisions, 0);
  const { body, node } = table(
    "Reward per decision of each policy",
    [
      "Policy",
      "Reward",
      "95 % interval",
      ["On one scale", "mid"],
      "Decisions",
      "Share",
      ["Lately", "mid"],
      ...(base && names.length > 1 ? ["Against random"] : []),
    ],
    { class: "fresh" },
  );
  const bounds = drawn(policies)
      .flatMap((n) => [policies[n].low, policies[n].high])
      .filter(ok),
    scale = [Math.min(...bounds), Math.max(...bounds)];
  for (const name of names) {
    const p = policies[name],
      recent = points((r) => r.policies[name]?.reward, since)
        .map((q) => q.y)
        .slice(-120);
    body.append(
      h(
        "tr",
        {},
        h("th", { scope: "row" }, h("span", { class: "key" }, swatch(name), h("span", {}, name))),
        h("td", {}, fixed(p.reward, 4)),
        h("td", { class: "soft" }, `${fixed(p.low, 4)} – ${fixed(p.high, 4)}`),
        h("td", { class: "mid" }, whisker(name, p, base, scale)),
        h("td", {}, whole(p.decisions)),
        h("td", {}, percent(all ? p.decisions / all : NaN)),
        h("td", { class: "mid" }, sparkline(name, recent, style(name).color)),
        base && names.length > 1 ? h("td", {}, against(name, p, base)) : null,
      ),
    );
  }
  box.replaceChildren(node);
}

function against(name, p, base) {
  if (name === "random") return h("span", { class: "soft" }, "baseline");
  const [sign, kind, says] =
    p.low > base.high
      ? ["▲", "up", "above random: the intervals do not touch"]
      : p.high < base.low
        ? ["▼", "down", "below random: the intervals do not touch"]
        : ["≈", "soft", "not told apart from random: the intervals overlap"];
  const lift = base.reward > 0 ? (p.reward / base.reward - 1) * 100 : null;
  const text = ok(lift)
    ? `${lift < 0 ? "−" : "+"}${fixed(Math.abs(lift), Math.abs(lift) < 10 ? 1 : 0)} %`
    : `${p.reward < base.reward ? "−" : "+"}${fixed(Math.abs(p.reward - base.reward), 4)}`;
  return h("span", { class: kind, title: says }, `${sign} ${text}`, h("span", { class: "sr" }, `, ${says}`));
}
