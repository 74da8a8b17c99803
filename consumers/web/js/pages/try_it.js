/** Be a user: see the list, react, and see what that changed. */

import * as api from "../api.js";
import { attempt, toast } from "../dialogs.js";
import { byId, empty, h, plural } from "../dom.js";
import { live, watch } from "../stream.js";
import { compare, summary } from "./difference.js";
import { react } from "./reaction.js";
import { showList } from "./slate.js";
import { showWhy } from "./why.js";

export const title = "Try it";

const SIZES = [3, 5, 10, 20];
const PATIENCE_MS = 3000;
let size = 10,
  chosen = ""; // kept while one looks at other pages

export function mount(main, user) {
  const view = { user: "", steps: [], answer: null, state: null, busy: false, gone: false, categories: new Map() };
  view.list = h(
    "section",
    { class: "card slate", "aria-labelledby": "list-title" },
    empty("Nobody chosen yet", "Pick a user or type an id; an id nobody has used is a new user."),
  );
  view.why = h("div", { class: "why-side" });
  view.says = h("p", { class: "sr", role: "status" });
  main.append(
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Try it"),
      h("p", {}, "Be a user: look at the list, react, and see what that changes."),
    ),
    picker(view),
    view.says,
    h("div", { class: "sides try" }, view.list, view.why),
  );
  learnCategories(view);
  if (user) chosen = user;
  if (chosen) become(view, chosen);
  return {
    leave: () => {
      view.gone = true;
    },
  };
}

async function learnCategories(view) {
  try {
    for (const one of await api.items("", 200)) view.categories.set(one.item, one.category);
  } catch {
    /* the list does without */
  }
}

function picker(view) {
  const names = h("datalist", { id: "known-users" });
  const field = h("input", {
    type: "text",
    id: "who",
    list: "known-users",
    maxlength: 128,
    autocomplete: "off",
    spellcheck: "false",
    placeholder: "user id",
    value: chosen,
    input: (event) => suggest(names, event.target.value),
  });
  suggest(names, "");
  const many = h("select", {
    id: "how-many",
    change: (event) => {
      size = +event.target.value;
      if (view.user) askAgain(view, "asked for another length");
    },
  });
  offer(many, live.last?.slots);
  const go = (event) => {
    event.preventDefault();
    const name = field.value.trim();
    if (name) become(view, name);
    else field.focus();
  };
  return h(
    "form",
    { class: "card picker", submit: go },
    h("label", { class: "field who" }, "User", field),
    names,
    h("label", { class: "field" }, "List of", many),
    h(
      "div",
      { class: "row" },
      h("button", { type: "submit", class: "main" }, "Show the list"),
      h("button", { type: "button", click: () => anybody(view) }, "Somebody"),
      h("button", { type: "button", click: () => become(view, newcomer()) }, "A new user"),
    ),
  );
}

/** Lengths to choose from, none longer than the service can make. */
function offer(choose, most = SIZES.at(-1)) {
  if (choose.options.length && +choose.options[choose.options.length - 1].value === most) return;
  const sizes = [...SIZES.filter((n) => n < most), most];
  size = Math.min(size, most);
  choose.replaceChildren(...sizes.map((n) => h("option", { value: n, selected: n === size }, String(n))));
}

/** Resolves once the first live record, which says how long a list may be, is there; or has been waited for. */
function firstRecord() {
  return new Promise((resolve) => {
    if (live.last) {
      resolve();
      return;
    }
    const stop = watch(() => live.last && done());
    const done = () => {
      stop();
      resolve();
    };
    setTimeout(done, PATIENCE_MS);
  });
}

async function suggest(names, text) {
  try {
    names.replaceChildren(...(await api.users(text.trim(), 20)).map((name) => h("option", { value: name })));
  } catch {
    /* typing works without */
  }
}

const newcomer = () => `guest-${crypto.getRandomValues(new Uint32Array(1))[0].toString(36)}`;

async function anybody(view) {
  await attempt(async () => {
    const known = await api.users("", 200);
    if (known.length) await become(view, known[Math.floor(Math.random() * known.length)]);
    else toast("Nobody has been seen yet: try a new user.");
  });
}

async function become(view, user) {
  chosen = view.user = user;
  byId("who").value = user;
  Object.assign(view, { steps: [], answer: null, state: null, busy: false });
  await firstRecord();
  if (view.gone || view.user !== user) return;
  offer(byId("how-many"), live.last?.slots);
  await askAgain(view, "");
}

/** What is held of the user; a user who was never seen has nothing. */
async function stateOf(user) {
  try {
    return await api.user(user);
  } catch (error) {
    if (error.status === 404) return null;
    throw error;
  }
}

async function askAgain(view, cause) {
  const user = view.user;
  await working(view, async () => {
    const [answer, state] = [await api.recommend(user, size), await stateOf(user)];
    if (view.gone || view.user !== user) return;
    take(view, { kind: "ask", cause, answer, before: view.answer, state, stateBefore: view.state });
  });
}

/** Click, skip or buy the item in a slot. */
async function act(view, kind, slot) {
  const user = view.user,
    { item } = view.answer.items[slot];
  await working(view, async () => {
    const done = await react({ user, kind, item, slot, decision: view.answer.decision, known: view.state });
    const answer = await api.recommend(user, size);
    if (view.gone || view.user !== user) return;
    take(view, { kind, item, slot, ...done, answer, before: view.answer, stateBefore: view.state });
  });
}

/** One thing at a time for a user; what was under way for the user before is left to end unseen. */
async function working(view, action) {
  if (view.busy) return;
  const mine = (view.busy = Symbol("under way"));
  view.list.setAttribute("aria-busy", "true");
  const well = await attempt(action);
  if (view.busy !== mine) return;
  view.busy = false;
  view.list.removeAttribute("aria-busy");
  if (!well && !view.answer) view.list.replaceChildren(empty("No list", "The service gave none; see the message."));
}

function take(view, step) {
  step.changes = step.before ? compare(step.before.items, step.answer.items) : null;
  view.answer = step.answer;
  view.state = step.state;
  view.steps.unshift(step);
  const first = !step.before;
  showList(view, step, { act: (kind, slot) => act(view, kind, slot), again: () => askAgain(view, "asked again") });
  showWhy(view.why, view.steps);
  view.says.textContent = first ? `${plural(step.answer.items.length, "item")} for ${view.user}` : summary(step);
}
