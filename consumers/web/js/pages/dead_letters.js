/** Records that could not be used: why, where from, and what they hold. */

import * as api from "../api.js";
import { empty, h, plural, tag } from "../dom.js";
import { live } from "../stream.js";

export const title = "Dead letters";

const LIMIT = 200;

export function mount(main) {
  const view = {
    letters: null,
    count: 0,
    list: h("ul", { class: "letters" }),
    note: h("p", { role: "status" }),
    more: h("button", { type: "button", class: "small", hidden: true, click: () => load(view) }),
    find: h("input", {
      type: "search",
      placeholder: "reason, origin or content",
      "aria-label": "Find in dead letters",
      input: () => show(view),
    }),
  };
  main.append(
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Dead letters"),
      h("p", {}, "Records that could not be used. They are kept as they came; streamrec dlq retry sends them again."),
    ),
    h(
      "section",
      { class: "card", "aria-label": "Dead letters" },
      h("div", { class: "head" }, h("div", { class: "finder" }, view.find), view.note, view.more),
      view.list,
    ),
  );
  load(view);
  return { follow: () => news(view) };
}

async function load(view) {
  view.more.hidden = true;
  view.count = live.last?.counts.dead_letters ?? 0;
  try {
    view.letters = await api.deadLetters(LIMIT);
  } catch (error) {
    view.list.replaceChildren(empty("The dead letters are not known", error.message));
    return;
  }
  show(view);
}

function news(view) {
  const now = live.last?.counts.dead_letters ?? 0;
  if (view.letters === null || now <= view.count) return;
  if (!view.letters.length) {
    load(view);
    return;
  }
  view.more.hidden = false;
  view.more.textContent = `Show ${plural(now - view.count, "new one")}`;
}

const words = (one) => [one.reason, one.topic, one.key ?? "", one.value ?? one.value64 ?? ""].join("\n").toLowerCase();

function show(view) {
  if (!view.letters) return;
  const query = view.find.value.trim().toLowerCase(),
    found = view.letters.filter((one) => words(one).includes(query));
  view.note.textContent = !view.letters.length
    ? ""
    : query
      ? `${found.length} of ${view.letters.length}`
      : `the newest ${plural(found.length, "letter")}`;
  view.list.replaceChildren(...found.map(letter));
  if (!view.letters.length) view.list.append(h("li", {}, empty("None", "Every record could be read.")));
  else if (!found.length)
    view.list.append(h("li", {}, empty("Nothing found", "Among the newest letters none holds that text.")));
}

function letter(one) {
  const bytes = one.value64 ?? null,
    held = one.value ?? bytes;
  return h(
    "li",
    {},
    h(
      "details",
      {},
      h(
        "summary",
        {},
        h("span", { class: "why" }, one.reason),
        h("span", { class: "from soft mono" }, `${one.topic} [${one.partition}] @ ${one.offset}`),
      ),
      h(
        "p",
        { class: "row" },
        (one.key ?? one.key64)
          ? h("span", { class: "mono" }, h("span", { class: "soft" }, "key "), one.key ?? one.key64)
          : tag("no key"),
        bytes ? tag("bytes, shown in base64") : null,
      ),
      h("pre", { tabindex: 0, "aria-label": "Content" }, held === null ? "no value" : bytes ? bytes : pretty(held)),
    ),
  );
}

/** JSON in lines, anything else as it is. */
function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}
