/** Why a list is as it is: what the user did, which state and weights that changed, what the policy says of itself. */

import { daytime, fill, fixed, h, lasting, ok, spoken, tag, whole } from "../dom.js";
import { summary } from "./difference.js";

const LAST = 8;

/** Newest step first. */
export function showWhy(box, steps) {
  const [step] = steps,
    changed = step.changes;
  fill(
    box,
    h(
      "section",
      { class: "card why", "aria-labelledby": "why-title" },
      h("h2", { id: "why-title" }, changed ? "What changed, and why" : "Why this list"),
      changed ? causes(step) : null,
      step.ackMs === undefined ? null : journey(step),
      held(step),
      explanation(step),
      changed ? earlier(step) : null,
    ),
    steps.length > 1 ? history(steps) : null,
  );
}

/** What can have moved the list, one by one; chance is named wherever the policy draws. */
function causes({ kind, before, answer, seenMs }) {
  if (answer.fallback) return h("p", {}, "The popular list answered: neither the state nor the weights count in it.");
  const draws = answer.items.some((one) => ok(one.propensity) && one.propensity < 0.999);
  const line = (moved, name, text) =>
    h(
      "li",
      { class: moved ? "moved" : null },
      h("i", { "aria-hidden": "true" }, moved ? "●" : "○"),
      h("span", {}, h("b", {}, name), ` ${text}`),
    );
  const swapped = before.model !== answer.model,
    other = before.policy !== answer.policy;
  return h(
    "ul",
    { class: "causes" },
    kind === "ask"
      ? line(false, "State", "nothing was done in between")
      : seenMs === null
        ? line(false, "State", "the reaction did not show within four seconds")
        : line(true, "State", "holds the reaction"),
    swapped
      ? line(true, "Weights", `${spoken(before.model)} → ${spoken(answer.model)}`)
      : line(false, "Weights", `the same, ${spoken(answer.model)}`),
    other ? line(true, "Policy", `${before.policy} → ${answer.policy}`) : null,
    draws
      ? line(true, "Chance", "the policy draws its list; ask again to see how much that moves")
      : line(false, "Chance", "no part in it"),
  );
}

const journey = (step) =>
  h(
    "ol",
    { class: "journey" },
    h("li", {}, h("b", {}, lasting(step.ackMs)), h("span", { class: "soft" }, "in the log")),
    h(
      "li",
      {},
      h("b", {}, step.seenMs === null ? "not yet" : lasting(step.seenMs)),
      h("span", { class: "soft" }, "in the state"),
    ),
    h("li", {}, h("b", {}, lasting(step.answer.took_ms)), h("span", { class: "soft" }, "for the new list")),
  );

const trail = (state) =>
  [...(state?.items ?? []), ...(state?.skips ?? []).map((s) => ({ ...s, kind: s.kind || "skip" }))].sort(
    (a, b) => a.time - b.time,
  );
const key = (one) => `${one.kind} ${one.item} ${one.time}`;
const SIGNS = { click: "●", purchase: "◆", skip: "✕", rating: "★" };

function held({ state, stateBefore, kind }) {
  const now = trail(state),
    before = new Set(trail(stateBefore).map(key)),
    shown = now.slice(-LAST);
  if (!now.length)
    return h("div", {}, h("h3", {}, "State"), h("p", { class: "soft" }, "Nothing is held yet: this user is new."));
  const chips = shown.map((one) => {
    const fresh = kind !== "ask" && !before.has(key(one));
    return h(
      "li",
      {},
      tag(`${SIGNS[one.kind] ?? "●"} ${one.item}${fresh ? " · new" : ""}`, fresh ? "good" : "", {
        title: `${one.kind}, ${daytime(one.time)}`,
      }),
    );
  });
  return h(
    "div",
    {},
    h("h3", {}, "State: the latest ", h("span", { class: "legend" }, "● click ◆ buy ✕ skip")),
    h(
      "ol",
      { class: "tags" },
      now.length > LAST ? h("li", {}, h("span", { class: "soft" }, `${now.length - LAST} before`)) : null,
      chips,
    ),
    h(
      "p",
      { class: "soft session" },
      stateBefore
        ? `in this session: ${whole(stateBefore.in_session)} → ${whole(state.in_session)} events`
        : `in this session: ${whole(state.in_session)} events`,
    ),
  );
}

/** The list before, with what left it marked. */
function earlier({ before, changes }) {
  const gone = new Set(changes.gone.map((one) => one.item));
  return h(
    "details",
    { class: "earlier" },
    h("summary", {}, "The list before"),
    h(
      "ol",
      { class: "tags" },
      before.items.map((one, at) =>
        h(
          "li",
          {},
          tag(`${at + 1} · ${one.item}${gone.has(one.item) ? " · gone" : ""}`, gone.has(one.item) ? "bad" : ""),
        ),
      ),
    ),
  );
}

const NAMES = { read: "history it read", skipped: "skips it read", in_session: "events in session" };
const say = (value) =>
  ok(value)
    ? Number.isInteger(value)
      ? whole(value)
      : fixed(value, 4)
    : typeof value === "string"
      ? value
      : JSON.stringify(value);
const flat = (value) =>
  value === null ||
  typeof value !== "object" ||
  (Array.isArray(value) && value.every((one) => typeof one !== "object"));

/** What the answer says of itself, with what it said before where that differs. */
function explanation({ answer, before }) {
  const now = answer.explain;
  if (!now) return null;
  const was = before?.explain ?? {};
  const rows = Object.entries(now)
    .filter(([name, value]) => name !== "policy" && name !== "model" && value !== null)
    .map(([name, value]) => {
      const changed = name in was && JSON.stringify(was[name]) !== JSON.stringify(value);
      const text =
        Array.isArray(value) && flat(value)
          ? names(value, was[name])
          : flat(value)
            ? h(
                "span",
                {},
                changed && flat(was[name])
                  ? [h("span", { class: "soft" }, `${list(was[name])} → `), list(value)]
                  : list(value),
              )
            : h(
                "details",
                {},
                h(
                  "summary",
                  {},
                  Array.isArray(value) ? `${value.length} entries` : `${Object.keys(value).length} values`,
                ),
                h("pre", { tabindex: 0, "aria-label": name }, JSON.stringify(value, null, 1)),
              );
      return h(
        "div",
        { class: changed ? "changed" : null },
        h("dt", {}, NAMES[name] ?? name.replaceAll("_", " ")),
        h("dd", {}, text),
      );
    });
  return h("div", {}, h("h3", {}, "What the answer says of itself"), h("dl", { class: "explain" }, rows));
}

/** How many of `now` were appended to `before`, of which the oldest may have gone. */
function appended(now, before) {
  for (let more = 0; more < now.length; more++) {
    const kept = now.slice(0, now.length - more);
    if (kept.length <= before.length && kept.every((one, at) => one === before.at(at - kept.length))) return more;
  }
  return now.length;
}

/** The newest of a list of names; those that came since stand out. */
function names(now, before) {
  const cut = Math.max(0, now.length - LAST),
    fresh = now.length - appended(now, before ?? now);
  if (!now.length) return h("span", { class: "soft" }, "none");
  return h(
    "ol",
    { class: "tags" },
    cut ? h("li", { class: "soft" }, `${cut} before`) : null,
    now.slice(cut).map((one, at) => h("li", {}, tag(say(one), at + cut < fresh ? "" : "good"))),
  );
}

const list = (value) =>
  Array.isArray(value) ? value.map(say).join(", ") || "none" : value === null ? "none" : say(value);

const history = (steps) =>
  h(
    "section",
    { class: "card", "aria-labelledby": "steps-title" },
    h("h2", { id: "steps-title" }, "So far"),
    h(
      "ol",
      { class: "steps", reversed: true },
      steps.map((step) => h("li", {}, step.changes ? summary(step) : `looked: ${step.answer.items.length} items`)),
    ),
  );
