/** The catalogue: what can be shown, how often it was seen, retire and restore. */

import * as api from "../api.js";
import { attempt, confirm } from "../dialogs.js";
import { byId, empty, h, moment, plural, scroll, stack, table, tag, whole } from "../dom.js";

export const title = "Items";

const LIMIT = 50;

export function mount(main, item) {
  const view = { asked: 0, timer: 0, list: h("div"), note: h("p", { role: "status" }), field: null };
  view.field = h("input", {
    type: "search",
    placeholder: "item id or category",
    "aria-label": "Find an item",
    value: item,
    autocomplete: "off",
    spellcheck: "false",
    input: () => {
      clearTimeout(view.timer);
      view.timer = setTimeout(() => load(view), 150);
    },
  });
  main.append(
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Items"),
      h("p", {}, "A retired item is not recommended from the next request on."),
    ),
    h(
      "section",
      { class: "card", "aria-label": "Items" },
      h("div", { class: "head" }, h("div", { class: "finder" }, view.field), view.note),
      adder(view),
      view.list,
    ),
  );
  load(view);
  const timer = setInterval(() => {
    if (!document.hidden) load(view, false);
  }, 5000);
  return {
    leave: () => {
      view.asked++;
      clearTimeout(view.timer);
      clearInterval(timer);
    },
  };
}

/** Ask again and show; rows stay where they are while somebody is about to press a button there, unless `asked`. */
async function load(view, asked = true) {
  const mine = ++view.asked;
  let found;
  try {
    found = await api.items(view.field.value.trim(), LIMIT);
  } catch (error) {
    if (mine === view.asked) view.list.replaceChildren(empty("The items are not known", error.message));
    return;
  }
  if (mine !== view.asked) return;
  view.note.textContent =
    found.length < LIMIT ? plural(found.length, "item") : `the first ${LIMIT}; type to find others`;
  if (!found.length) {
    view.list.replaceChildren(
      empty(
        "No item",
        view.field.value
          ? "Nothing in the catalogue is named like that."
          : "The catalogue fills with the items that events name.",
      ),
    );
    return;
  }
  if (!asked && view.list.matches(":hover, :focus-within")) return;
  const text = JSON.stringify(found);
  if (view.list.dataset.text === text && view.list.querySelector("table")) return;
  view.list.dataset.text = text;
  show(view, found);
}

function show(view, found) {
  const held = view.list.contains(document.activeElement) ? document.activeElement.dataset.do : null;
  const { body, node } = table("Items", ["Item", ["Category", "left"], ["State", "left"], "Events", "Last seen", ""]);
  body.append(...found.map((one) => line(view, one)));
  view.list.replaceChildren(scroll("Items", stack(node, true)));
  if (held) view.list.querySelector(`[data-do="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
}

function line(view, one) {
  const state = one.retired
    ? tag("✕ retired", "bad")
    : one.available
      ? tag("✓ available", "good")
      : tag("not available");
  const [label, action] = one.retired || !one.available ? ["Restore", restore] : ["Retire", retire];
  return h(
    "tr",
    { "data-item": one.item },
    h("th", { scope: "row", class: "mono" }, one.item),
    h("td", { class: "left" }, one.category || h("span", { class: "soft" }, "–")),
    h("td", { class: "left first" }, state),
    h("td", {}, whole(one.seen)),
    h("td", {}, moment(one.last_seen)),
    h(
      "td",
      {},
      h(
        "button",
        {
          type: "button",
          class: "small",
          "data-do": `${one.item}`,
          "aria-label": `${label} ${one.item}`,
          click: () => action(view, one),
        },
        label === "Retire" ? "Retire…" : label,
      ),
    ),
  );
}

/** What was asked for goes through the log: look again until it shows, for two seconds at most. */
async function settle(view, item, available) {
  for (let left = 20; left > 0; left--) {
    const found = (await api.items(item, LIMIT).catch(() => [])).find((one) => one.item === item);
    if (found?.available === available) break;
    await new Promise((done) => {
      setTimeout(done, 100);
    });
  }
  await load(view);
}

async function retire(view, one) {
  const yes = await confirm({
    title: `Retire ${one.item}?`,
    yes: "Retire",
    danger: true,
    text: "Nobody is shown it from the next request on. It can be restored.",
  });
  if (yes && (await attempt(() => api.retire(one.item), `${one.item} is retired.`)))
    await settle(view, one.item, false);
}

/** What a PUT of one item holds. */
const entry = (item, category) => [category ? { item, category, available: true } : { item, available: true }];

async function restore(view, one) {
  if (await attempt(() => api.upsert(entry(one.item, one.category)), `${one.item} can be shown again.`))
    await settle(view, one.item, true);
}

function adder(view) {
  const send = async (event) => {
    event.preventDefault();
    const item = byId("new-item").value.trim(),
      category = byId("new-category").value.trim();
    if (!item) {
      byId("new-item").focus();
      return;
    }
    if (!(await attempt(() => api.upsert(entry(item, category)), `${item} is in the catalogue.`))) return;
    event.target.reset();
    await settle(view, item, true);
  };
  return h(
    "details",
    { class: "adder" },
    h("summary", {}, "Add or change an item"),
    h(
      "form",
      { class: "row", submit: send },
      h(
        "label",
        { class: "field" },
        "Item id",
        h("input", { type: "text", id: "new-item", maxlength: 128, required: true }),
      ),
      h("label", { class: "field" }, "Category", h("input", { type: "text", id: "new-category", maxlength: 128 })),
      h("button", { type: "submit" }, "Save"),
    ),
  );
}
