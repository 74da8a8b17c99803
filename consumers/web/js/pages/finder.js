/** A search field with what it finds below, asked again while one types. */

import { empty, h } from "../dom.js";

/** find(query) resolves to a list, row(one) makes an <li>. Returns the card and how to leave it. */
export function finder(label, hint, find, row, none, text) {
  let asked = 0,
    timer = 0;
  const list = h("ul", { class: "found" }),
    note = h("p", { class: "sr", role: "status" });
  const field = h("input", {
    type: "search",
    placeholder: hint,
    "aria-label": label,
    autocomplete: "off",
    spellcheck: "false",
    input: () => {
      clearTimeout(timer);
      timer = setTimeout(load, 150);
    },
  });
  async function load() {
    const mine = ++asked;
    let found;
    try {
      found = await find(field.value.trim());
    } catch (error) {
      if (mine === asked) list.replaceChildren(h("li", {}, empty("Not known", error.message)));
      return;
    }
    if (mine !== asked) return; // an answer to what was typed before
    note.textContent = `${found.length} found`;
    list.replaceChildren(...(found.length ? found.map(row) : [h("li", {}, empty(none, field.value ? text : ""))]));
  }
  load();
  return {
    node: h("section", { class: "card finding", "aria-label": label }, field, note, list),
    load,
    leave: () => {
      asked++;
      clearTimeout(timer);
    },
  };
}
