/** The versions the learner published: which one serves, and how to choose another. */

import * as api from "../api.js";
import { attempt, confirm, toast } from "../dialogs.js";
import { empty, fill, h, moment, percent, plural, scroll, short, spoken, stack, table, tag, whole } from "../dom.js";
import { live } from "../stream.js";

export const title = "Models";

const EVERY_MS = 3000;
const FEW = 12;
const STATES = {
  serving: ["● serving", "good"],
  shadow: ["◐ shadow", "blue"],
  standby: ["standby", ""],
  rejected: ["✕ rejected", "bad"],
  rolled_back: ["▼ rolled back", "bad"],
};
const CHOSEN = new Set(["standby", "shadow", "rolled_back"]);

export function mount(main) {
  const view = {
    now: h("div", { class: "card now fresh" }),
    list: h("div"),
    models: null,
    busy: false,
    text: "",
    shown: new Set(),
    most: FEW,
    news: h("button", { type: "button", class: "small right", hidden: true, click: () => showList(view) }),
  };
  main.append(
    h(
      "div",
      { class: "title" },
      h("h1", {}, "Models"),
      h("p", {}, "The learner publishes versions; the newest that passes its checks serves, unless one is pinned."),
    ),
    view.now,
    h(
      "section",
      { class: "card", "aria-labelledby": "versions-title" },
      h(
        "div",
        { class: "head" },
        h("h2", { id: "versions-title" }, "Versions"),
        h("p", {}, "Newest first."),
        view.news,
      ),
      view.list,
    ),
  );
  const timer = setInterval(() => {
    if (!document.hidden && !view.busy) load(view);
  }, EVERY_MS);
  load(view);
  return { follow: () => showNow(view), leave: () => clearInterval(timer) };
}

async function load(view, asked = false) {
  try {
    view.models = (await api.models()).toSorted((a, b) => b.made - a.made || b.version.localeCompare(a.version));
  } catch (error) {
    if (!view.models) fill(view.list, empty("The versions are not known", error.message));
    return;
  }
  showNow(view);
  const fresh = view.models.filter((m) => !view.shown.has(m.version)).length;
  if (!asked && view.shown.size && fresh && view.list.matches(":hover, :focus-within")) tellNews(view, fresh);
  else showList(view);
}

/** Rows must not move under a pointer that is about to press a button. */
function tellNews(view, fresh) {
  view.news.hidden = false;
  view.news.textContent = `Show ${plural(fresh, "newer version")}`;
}

/** What the shadow would have earned, and what to know before believing it. */
function worth(shadow) {
  if (!shadow.value) return "what it would have earned is not known yet: it needs closed decisions of known propensity";
  const warned = Object.values(shadow.value.warnings);
  return warned.length ? `${shadow.value.says}. Mind: ${warned.join(" ")}` : shadow.value.says;
}

function showNow(view) {
  const { last } = live,
    serving = view.models?.find((m) => m.state === "serving");
  const version = serving?.version ?? last?.model?.version ?? "",
    pinned = last?.model?.pinned ?? false,
    because = last?.model?.because ?? "",
    shadow = last?.shadow;
  const text = JSON.stringify([version, pinned, because, shadow, !!view.models]);
  if (text === view.text) return;
  const held = view.now.contains(document.activeElement) ? document.activeElement.dataset.do : null;
  view.text = text;
  view.now.toggleAttribute("data-pinned", pinned);
  fill(
    view.now,
    h(
      "div",
      {},
      h("span", { class: "soft" }, "Serving"),
      h("b", { class: "mono big", title: version }, spoken(version)),
      pinned ? tag("◆ pinned", "blue") : tag("follows the newest"),
      h(
        "p",
        { class: "soft" },
        pinned
          ? `Pinned ${because === "by hand" ? "" : "because "}${because}. New versions stay on standby until another one is chosen.`
          : version
            ? "The next version that passes its checks takes over."
            : "The popular list answers until a version can serve.",
      ),
    ),
    shadow
      ? h(
          "div",
          {},
          h("span", { class: "soft" }, "Shadow"),
          h("b", { class: "mono big" }, spoken(shadow.version)),
          h(
            "p",
            { class: "soft" },
            `sees the same requests and shows nothing; agrees in ${percent(shadow.agreement, 1)} of the slots`,
          ),
          h("p", { class: "soft", "data-of": "value" }, worth(shadow)),
        )
      : null,
    h(
      "div",
      { class: "row right" },
      shadow ? h("button", { type: "button", "data-do": "unshadow", click: () => unshadow(view) }, "End shadow") : null,
      pinned
        ? h("button", { type: "button", "data-do": "follow", click: () => unpin(view) }, "Follow the newest…")
        : null,
      h(
        "button",
        { type: "button", class: "danger", "data-do": "rollback", disabled: !version, click: () => rollback(view) },
        "Roll back…",
      ),
    ),
  );
  if (held) view.now.querySelector(`[data-do="${held}"]`)?.focus();
}

function showList(view) {
  if (!view.models.length) {
    fill(view.list, empty("No version yet", "The learner publishes its first one when it has learned something."));
    return;
  }
  const held = view.list.contains(document.activeElement) ? document.activeElement.dataset.do : null;
  const left = view.list.querySelector(".scroll")?.scrollLeft ?? 0;
  const folds = new Set([...view.list.querySelectorAll("details[open]")].map((d) => d.dataset.of));
  const { body, node } = table("Versions", [
    "Version",
    ["State", "left"],
    "Made",
    "Events",
    "Updates",
    ["Metrics", "left"],
    ["sha256", "left"],
    "",
  ]);
  for (const model of listed(view)) body.append(line(view, model, folds));
  const box = scroll("Versions", stack(node, true)),
    rest = view.models.length - body.rows.length;
  const more = h(
    "button",
    {
      type: "button",
      class: "small more",
      "data-do": "more",
      click: () => {
        view.most = Infinity;
        showList(view);
      },
    },
    `Show ${plural(rest, "older version")}`,
  );
  fill(view.list, box, rest ? more : null);
  view.shown = new Set(view.models.map((m) => m.version));
  view.news.hidden = true;
  box.scrollLeft = left;
  if (held) view.list.querySelector(`[data-do="${CSS.escape(held)}"]`)?.focus({ preventScroll: true });
}

/** The newest, and those that serve or watch, however old. */
const listed = (view) => view.models.filter((m, at) => at < view.most || m.state === "serving" || m.state === "shadow");

function line(view, m, folds) {
  const [word, kind] = STATES[m.state] ?? [m.state, ""];
  const act = (name, label, action) =>
    h(
      "button",
      {
        type: "button",
        class: "small",
        "data-do": `${name} ${m.version}`,
        "aria-label": `${label} ${spoken(m.version)}`,
        click: () => action(view, m),
      },
      `${label}…`,
    );
  return h(
    "tr",
    { "data-version": m.version, "data-state": m.state },
    h("th", { scope: "row", class: "mono", title: m.version }, spoken(m.version)),
    h("td", { class: "left first" }, tag(word, kind), m.reason ? h("div", { class: "soft reason" }, m.reason) : null),
    h("td", {}, moment(m.made)),
    h("td", {}, whole(m.events)),
    h("td", {}, whole(m.updates)),
    h("td", { class: "left" }, metrics(m, folds)),
    h("td", { class: "left" }, sum(m)),
    h(
      "td",
      {},
      h(
        "span",
        { class: "row acts" },
        CHOSEN.has(m.state) ? act("promote", "Promote", promote) : null,
        m.state === "standby" ? act("shadow", "Shadow", shadow) : null,
      ),
    ),
  );
}

function metrics(m, folds) {
  const all = Object.entries(m.metrics ?? {}),
    say = ([name, value]) => h("span", {}, h("span", { class: "soft" }, `${name} `), short(value));
  if (!all.length) return h("span", { class: "soft" }, "none");
  if (all.length <= 2) return h("span", { class: "metrics" }, all.map(say));
  return h(
    "details",
    { "data-of": m.version, open: folds.has(m.version) },
    h(
      "summary",
      { "data-do": `metrics ${m.version}` },
      say(all[0]),
      h("span", { class: "soft" }, ` and ${all.length - 1} more`),
    ),
    h("span", { class: "metrics" }, all.slice(1).map(say)),
  );
}

function sum(m) {
  if (!m.sha256) return h("span", { class: "soft" }, "–");
  const copy = () =>
    navigator.clipboard?.writeText(m.sha256).then(
      () => toast("Copied."),
      () => toast(m.sha256),
    );
  return h(
    "button",
    {
      type: "button",
      class: "link mono",
      title: m.sha256,
      "data-do": `sum ${m.version}`,
      "aria-label": `Copy the sha256 of ${spoken(m.version)}`,
      click: copy,
    },
    `${m.sha256.slice(0, 10)}…`,
  );
}

/** Ask, do, say, and show what is there now. */
async function change(view, question, action, done) {
  if (!(await confirm(question))) return;
  view.busy = true;
  await attempt(action, done);
  view.busy = false;
  await load(view, true);
}

const now = () => (live.last?.model?.version ? spoken(live.last.model.version) : "the present one");

const promote = (view, m) =>
  change(
    view,
    {
      title: `Serve ${spoken(m.version)}?`,
      yes: "Promote",
      danger: m.state === "rolled_back",
      text: [
        `Requests are answered by ${spoken(m.version)} instead of ${now()} from the next batch on, and it stays pinned.`,
        m.state === "rolled_back"
          ? `It was rolled back before: ${m.reason || "no reason given"}.`
          : `It has learned from ${plural(m.events, "event")} in ${plural(m.updates, "update")}.`,
      ],
    },
    () => api.promote(m.version),
    `${spoken(m.version)} serves and is pinned.`,
  );

const unpin = (view) =>
  change(
    view,
    {
      title: "Follow the newest again?",
      yes: "Follow",
      text: "The newest version that passes its checks answers, and each one after it takes over by itself.",
    },
    () => api.promote("latest"),
    "The newest version serves, and the next ones follow.",
  );

const rollback = (view) =>
  change(
    view,
    {
      title: `Roll back from ${now()}?`,
      yes: "Roll back",
      danger: true,
      text: "The version that served before answers again and stays pinned. This one is marked as rolled back.",
    },
    async () => {
      const model = await api.rollback();
      toast(`${spoken(model.version)} serves again.`);
    },
    "",
  );

const shadow = (view, m) =>
  change(
    view,
    {
      title: `Let ${spoken(m.version)} watch as a shadow?`,
      yes: "Shadow",
      text: "It answers the same requests beside the serving version; nobody is shown its answers. The page tells how often both agree.",
    },
    () => api.shadow(m.version),
    `${spoken(m.version)} is the shadow.`,
  );

const unshadow = (view) =>
  change(
    view,
    { title: "End the shadow?", yes: "End shadow", text: "No version is compared with the serving one any more." },
    api.noShadow,
    "No shadow any more.",
  );
