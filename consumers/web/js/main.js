/** The frame: routes, state of the connection, theme, token. Each page mounts into `main` and returns how to follow. */

import { askToken } from "./dialogs.js";
import { token } from "./api.js";
import { byId, h, short } from "./dom.js";
import { live, reconnect, run, watch } from "./stream.js";
import * as deadLetters from "./pages/dead_letters.js";
import * as items from "./pages/items.js";
import * as learner from "./pages/learner.js";
import * as livePage from "./pages/live.js";
import * as models from "./pages/models.js";
import * as tryIt from "./pages/try_it.js";
import * as users from "./pages/users.js";

const PAGES = { live: livePage, try: tryIt, users, items, learner, models, "dead-letters": deadLetters };
const SIGNS = { live: "●", stale: "▲", lost: "▲", waiting: "◌" };
let page = null,
  shown = "",
  first = true;

/** "#/users/a%2Fb" -> ["users", "a/b"]; anything unknown is the live page. */
function route() {
  const [, name = "", rest = ""] = /^#\/([a-z-]+)(?:\/(.*))?$/.exec(location.hash) ?? [];
  let part = rest;
  try {
    part = decodeURIComponent(rest);
  } catch {
    /* a hash somebody typed */
  }
  return name in PAGES ? [name, part] : ["live", ""];
}

function go() {
  const [name, part] = route();
  if (`${name}/${part}` === shown) return;
  shown = `${name}/${part}`;
  page?.leave?.();
  const main = byId("main");
  main.replaceChildren();
  main.dataset.page = name;
  for (const link of byId("nav").children) {
    const here = link.hash === `#/${name}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (here) byId("nav").scrollTo({ left: link.offsetLeft - byId("nav").offsetLeft - 60 });
  }
  document.title = `${part ? `${part} · ` : ""}${PAGES[name].title} · streamrec`;
  page = PAGES[name].mount(main, part);
  page.follow?.(live);
  if (!first) {
    main.focus({ preventScroll: true });
    scrollTo(0, 0);
  }
  first = false;
}

function showState() {
  const pill = byId("state"),
    [sign, text, more] = pill.children;
  const late = live.state !== "live";
  pill.dataset.state = live.state;
  sign.textContent = SIGNS[live.state];
  if (text.textContent !== live.says) text.textContent = live.says;
  more.textContent = live.more; // counts seconds, which nobody wants to be read out
  pill.title = live.says + live.more;
  document.body.toggleAttribute("data-stale", late && live.last !== null);
  const dead = live.last?.counts?.dead_letters ?? 0,
    badge = byId("dead-count");
  badge.hidden = !dead;
  badge.textContent = short(dead);
  byId("token").toggleAttribute("data-on", token.get() !== "");
  showNotice();
}

function showNotice() {
  const box = byId("notice"),
    last = live.last;
  const text =
    last && live.state === "live" && !last.ready ? "The service is not ready: answers may be the popular list." : "";
  if (box.dataset.text === text) return;
  box.dataset.text = text;
  box.hidden = !text;
  box.replaceChildren(h("div", {}, h("b", {}, "▲ Not ready"), text, h("a", { href: "#/learner" }, "See which part")));
}

const THEMES = { "": "as the system has it", light: "light", dark: "dark" };

function showTheme() {
  const label = `Theme: ${THEMES[document.documentElement.dataset.theme ?? ""]}. Change it`;
  byId("theme").setAttribute("aria-label", label);
  byId("theme").title = label;
}

function changeTheme() {
  const root = document.documentElement,
    dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const order = dark ? ["", "light", "dark"] : ["", "dark", "light"];
  const next = order[(order.indexOf(root.dataset.theme ?? "") + 1) % 3];
  if (next) root.dataset.theme = next;
  else delete root.dataset.theme;
  if (next) localStorage.setItem("streamrec.theme", next);
  else localStorage.removeItem("streamrec.theme");
  showTheme();
}

async function changeToken() {
  if (!(await askToken())) return;
  showState();
  reconnect();
}

byId("theme").addEventListener("click", changeTheme);
byId("token").addEventListener("click", changeToken);
byId("jump").addEventListener("click", (event) => {
  event.preventDefault();
  byId("main").focus();
});
addEventListener("hashchange", go);
let resized = 0;
addEventListener("resize", () => {
  clearTimeout(resized);
  resized = setTimeout(() => page?.follow?.(live), 80);
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) {
    showState();
    page?.follow?.(live);
  }
});
watch(() => {
  if (!document.hidden) {
    showState();
    page?.follow?.(live);
  }
});
showTheme();
go();
run(askToken);
