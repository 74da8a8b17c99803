/** People: what is held of each, what was decided for them, and how to forget them. */

import * as api from "../api.js";
import { confirm, attempt } from "../dialogs.js";
import { ago, empty, fixed, h, moment, ok, plural, scroll, stack, table, tag } from "../dom.js";
import { style } from "../marks.js";
import { finder } from "./finder.js";

export const title = "Users";

const link = (user) => `#/users/${encodeURIComponent(user)}`;

export function mount(main, user) {
  const detail = h("div", { class: "detail" });
  const row = (name) => h("li", {}, h("a", { href: link(name), "aria-current": name === user ? "true" : null }, name));
  const list = finder(
    "Find a user",
    "user id",
    (query) => api.users(query, 100),
    row,
    "No user",
    "Nobody has been seen by that id.",
  );
  main.append(
    h("div", { class: "title" }, h("h1", {}, "Users")),
    h("div", { class: user ? "sides chosen" : "sides" }, list.node, detail),
  );
  if (!user) {
    detail.append(h("div", { class: "card" }, empty("Nobody chosen", "Choose a user to see what is held of them.")));
    return { leave: list.leave };
  }
  const timer = setInterval(() => {
    if (!document.hidden) show(detail, user);
  }, 2000);
  show(detail, user);
  return {
    leave: () => {
      clearInterval(timer);
      list.leave();
    },
  };
}

async function show(detail, user) {
  let state;
  try {
    state = await api.user(user);
  } catch (error) {
    const gone = error.status === 404;
    if (gone || !detail.firstChild)
      detail.replaceChildren(
        back(),
        h(
          "div",
          { class: "card" },
          empty(
            gone ? `Nothing is held of ${user}` : "Not known",
            gone ? "Never seen, expired or erased." : error.message,
          ),
        ),
      );
    return;
  }
  if (!detail.querySelector("[data-part=head]")) frame(detail, user);
  const text = JSON.stringify(state);
  detail.querySelector("[data-part=seen]").textContent =
    `last seen ${ago(state.last_seen)} · ${plural(state.in_session, "event")} in this session`;
  if (detail.dataset.text === text) return;
  detail.dataset.text = text;
  const [history, recent] = [detail.querySelector("[data-part=history]"), detail.querySelector("[data-part=recent]")];
  history.replaceChildren(timeline(state));
  recent.replaceChildren(decisions(state));
}

const back = () => h("a", { class: "button small back", href: "#/users" }, "← All users");

function frame(detail, user) {
  detail.replaceChildren(
    back(),
    h(
      "section",
      { class: "card", "data-part": "head", "aria-label": user },
      h(
        "div",
        { class: "head" },
        h("h2", { class: "mono big" }, user),
        h("p", { "data-part": "seen" }),
        h(
          "span",
          { class: "row" },
          h("a", { class: "button", href: `#/try/${encodeURIComponent(user)}` }, "Be this user"),
          h("button", { type: "button", class: "danger", click: () => erase(user) }, "Erase…"),
        ),
      ),
    ),
    h(
      "section",
      { class: "card", "aria-labelledby": "recent-title" },
      h(
        "div",
        { class: "head" },
        h("h2", { id: "recent-title" }, "Latest decisions"),
        h("p", {}, "Newest first. What this user took up is marked."),
      ),
      h("div", { "data-part": "recent" }),
    ),
    h(
      "section",
      { class: "card", "aria-labelledby": "history-title" },
      h(
        "div",
        { class: "head" },
        h("h2", { id: "history-title" }, "State"),
        h("p", {}, "What the model sees of this user, newest first."),
      ),
      h("div", { "data-part": "history" }),
    ),
  );
}

const SIGNS = { click: "●", purchase: "◆", rating: "★", skip: "✕", impression: "○" };

function timeline({ items, skips }) {
  const all = [...items, ...skips.map((s) => ({ ...s, kind: s.kind || "skip" }))].sort((a, b) => b.time - a.time);
  if (!all.length) return empty("Nothing yet", "No click, skip or purchase is held.");
  return h(
    "ol",
    { class: "timeline" },
    all.map((one) =>
      h(
        "li",
        { "data-kind": one.kind },
        h("i", { "aria-hidden": "true" }, SIGNS[one.kind] ?? "●"),
        h("span", { class: "kind" }, one.kind),
        h("a", { class: "mono", href: `#/items/${encodeURIComponent(one.item)}` }, one.item),
        moment(one.time),
      ),
    ),
  );
}

/** Which items of each list were taken up: an act belongs to the newest list before it that held the item. */
function uptake(lists, acts) {
  const taken = new Map(lists.map((list) => [list, new Set()]));
  for (const act of acts) {
    const list = lists.find((one) => one.time <= act.time && one.items.includes(act.item));
    if (list) taken.get(list).add(act.item);
  }
  return taken;
}

function decisions({ recent, items }) {
  if (!recent.length) return empty("None", "Nothing has been recommended lately.");
  const { body, node } = table("Latest decisions", [["When", "left"], ["Policy", "left"], ["List", "left"], "Reward"]);
  const lists = recent.toSorted((a, b) => b.time - a.time),
    taken = uptake(lists, items);
  for (const one of lists) {
    const slots = one.items.map((item) =>
      h(
        "li",
        {},
        taken.get(one).has(item)
          ? tag(`✓ ${item}`, "good", { title: "taken up after this list was shown" })
          : tag(item),
      ),
    );
    body.append(
      h(
        "tr",
        {},
        h("td", {}, moment(one.time)),
        h("td", { class: "left" }, h("span", { class: "key" }, dot(one.policy), one.policy)),
        h("td", { class: "wrap" }, h("ol", { class: "tags" }, slots)),
        h("td", {}, ok(one.reward) ? fixed(one.reward, 2) : h("span", { class: "soft" }, "open")),
      ),
    );
  }
  return scroll("Latest decisions", stack(node));
}

function dot(policy) {
  const node = h("i", { class: "dot", "aria-hidden": "true" });
  node.style.background = style(policy).color;
  return node;
}

async function erase(user) {
  const question = {
    title: `Erase ${user}?`,
    yes: "Erase",
    danger: true,
    text: [
      "State and history of this user are forgotten, here and by the learner. It cannot be undone.",
      "Weights that already learned from these events keep what they learned.",
    ],
  };
  if ((await confirm(question)) && (await attempt(() => api.erase(user), `${user} is erased.`)))
    location.hash = "#/users";
}
