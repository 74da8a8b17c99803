/** A user's list, with what moved since the one before. */

import { fill, fixed, h, lasting, ok, percent, spoken, tag } from "../dom.js";
import { counts, deed } from "./difference.js";

const ACTIONS = [
  ["click", "Click"],
  ["skip", "Skip"],
  ["purchase", "Buy"],
];
const SLIDE_MS = 420;
const still = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** Draw the answer of `step`; `on.act(kind, slot)` and `on.again()` are what the buttons do. */
export function showList(view, step, on) {
  const { answer, changes } = step,
    was = places(view.list),
    held = document.activeElement?.closest?.("[data-slot]")?.dataset.slot,
    kind = document.activeElement?.dataset?.kind;
  const rows = answer.items.map((one, slot) => row(view, one, slot, changes?.moves[slot], on));
  fill(
    view.list,
    head(view, answer, on),
    facts(answer),
    changes ? headline(step) : null,
    rows.length
      ? h("ol", { class: "slots" }, rows)
      : h("p", { class: "empty" }, "The list is empty: nothing is available for this user."),
    changes?.gone.length
      ? h(
          "p",
          { class: "gone" },
          h("span", { class: "soft" }, "Left the list: "),
          h(
            "span",
            { class: "tags" },
            changes.gone.map((one) => tag(`${one.from + 1} · ${one.item}`)),
          ),
        )
      : null,
  );
  if (held !== undefined)
    view.list.querySelector(`[data-slot="${held}"] [data-kind="${kind}"]`)?.focus({ preventScroll: true });
  if (changes && !still()) slide(view.list, was);
}

function head(view, answer, on) {
  return h(
    "div",
    { class: "head" },
    h("h2", { id: "list-title" }, "List for ", h("span", { class: "mono" }, view.user)),
    h(
      "span",
      { class: "row right" },
      h("a", { class: "button small", href: `#/users/${encodeURIComponent(view.user)}` }, "State"),
      h(
        "button",
        {
          type: "button",
          class: "small",
          title: "Another list without any reaction: what changes now is chance, or a new model",
          click: on.again,
        },
        "Ask again",
      ),
    ),
  );
}

function headline(step) {
  const { up, down, fresh, gone } = counts(step.changes);
  const parts = [
    [up, `▲ ${up} up`, "good"],
    [down, `▼ ${down} down`, "bad"],
    [fresh, `${fresh} new`, "blue"],
    [gone, `${gone} gone`, ""],
  ].filter(([n]) => n);
  return h(
    "p",
    { class: "outcome" },
    h("b", {}, `You ${deed(step)}.`),
    parts.length ? parts.map(([, text, kind]) => tag(text, kind)) : tag("the list stayed as it was"),
  );
}

function facts(answer) {
  return h(
    "p",
    { class: "facts" },
    tag(`policy ${answer.policy || "none"}`, "blue"),
    tag(`model ${spoken(answer.model)}`),
    tag(`answered in ${lasting(answer.took_ms)}`),
    answer.fallback ? tag(`▲ fallback: ${answer.fallback.replaceAll("_", " ")}`, "bad") : null,
    h("span", { class: "soft decision" }, `decision ${answer.decision}`),
  );
}

function row(view, one, slot, move, on) {
  const category = view.categories.get(one.item);
  return h(
    "li",
    { "data-item": one.item, "data-slot": slot, class: move && (move.by || move.from < 0) ? "moved" : null },
    h("span", { class: "rank" }, String(slot + 1)),
    badge(move, slot),
    h(
      "span",
      { class: "what" },
      h("b", { class: "mono" }, one.item),
      category ? h("span", { class: "soft" }, category) : null,
    ),
    h(
      "span",
      { class: "chance", title: "Probability of this item in this slot, given those above" },
      h("span", { class: "soft" }, "propensity "),
      ok(one.propensity) ? percent(one.propensity, one.propensity < 0.1 ? 1 : 0) : "unknown",
      bar(one.propensity),
    ),
    h("span", { class: "score" }, h("span", { class: "soft" }, "score "), ok(one.score) ? fixed(one.score, 3) : "–"),
    h(
      "span",
      { class: "acts" },
      ACTIONS.map(([kind, name]) =>
        h(
          "button",
          {
            type: "button",
            class: "small",
            "data-kind": kind,
            "aria-label": `${name} ${one.item}`,
            click: () => on.act(kind, slot),
          },
          name,
        ),
      ),
    ),
  );
}

function badge(move, slot) {
  if (!move) return h("span", { class: "move" });
  if (move.from < 0) return h("span", { class: "move new" }, "new");
  if (!move.by)
    return h(
      "span",
      { class: "move soft", title: "where it was" },
      h("span", { "aria-hidden": "true" }, "="),
      h("span", { class: "sr" }, "unchanged"),
    );
  const [sign, kind, word] = move.by > 0 ? ["▲", "up", "up"] : ["▼", "down", "down"];
  return h(
    "span",
    { class: `move ${kind}`, title: `was ${move.from + 1}, is ${slot + 1}` },
    h("span", { "aria-hidden": "true" }, `${sign}${Math.abs(move.by)}`),
    h("span", { class: "sr" }, `${word} ${Math.abs(move.by)}`),
  );
}

function bar(share) {
  const full = h("i"),
    node = h("span", { class: "bar-of", "aria-hidden": "true" }, full);
  full.style.width = `${ok(share) ? Math.max(2, 100 * Math.min(1, share)) : 0}%`;
  return node;
}

const places = (list) =>
  new Map([...list.querySelectorAll("li[data-item]")].map((li) => [li.dataset.item, li.getBoundingClientRect().top]));

/** Each item slides from where it was to where it is; new ones fade in. */
function slide(list, was) {
  const shift = [...list.querySelectorAll("li[data-item]")].map((li) => [
    li,
    was.has(li.dataset.item) ? was.get(li.dataset.item) - li.getBoundingClientRect().top : null,
  ]);
  for (const [li, by] of shift) {
    const from = by === null ? { opacity: 0 } : { transform: `translateY(${by}px)` };
    if (by !== 0)
      li.animate([from, { opacity: 1, transform: "none" }], {
        duration: SLIDE_MS,
        easing: "cubic-bezier(.2, .8, .2, 1)",
      });
  }
}
