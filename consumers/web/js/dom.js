/** Elements and the writing of numbers. Text goes into the page as text only, never as HTML. */

const NS = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes that are functions are event listeners; null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== null && value !== false && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat(2).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An SVG element, appended to `parent`. */
export function make(parent, tag, attributes = {}, text = null) {
  const node = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  if (text !== null) node.textContent = text;
  parent?.append(node);
  return node;
}

/** Replace what is in `node`; nothing stands for null and false. */
export function fill(node, ...children) {
  node.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
}

export const byId = (id) => document.getElementById(id);
export const ok = (value) => typeof value === "number" && Number.isFinite(value);

export const fixed = (value, digits) =>
  ok(value) ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : "–";
export const whole = (value) => fixed(value, 0);
export const rate = (value) => fixed(value, ok(value) && Math.abs(value) < 10 ? 1 : 0);
export function percent(share, digits = 0) {
  if (!ok(share)) return "–";
  const least = 0.5 * 10 ** -(digits + 2);
  return share > 0 && share < least ? `< ${fixed(100 * least * 2, digits)} %` : `${fixed(100 * share, digits)} %`;
}
export const plural = (count, one, many = `${one}s`) => `${whole(count)} ${count === 1 ? one : many}`;

export function short(value) {
  if (!ok(value)) return "–";
  const size = Math.abs(value);
  if (size >= 1e6) return `${+(value / 1e6).toPrecision(3)}M`;
  if (size >= 1e4) return `${+(value / 1e3).toPrecision(3)}k`;
  if (size > 0 && size < 1e-3) return value.toExponential(1);
  return `${+value.toPrecision(size >= 1000 ? 4 : 3)}`;
}

/** A version as people say it: "000000000042" is v42. What is no number stays as it is. */
export const spoken = (version) => (/^\d+$/.test(version ?? "") ? `v${Number(version)}` : version || "none");

/** Milliseconds with a unit that fits: [number, unit]. */
export function duration(ms) {
  if (!ok(ms)) return ["–", ""];
  if (ms < 1) return [fixed(ms, 2), "ms"];
  if (ms < 1000) return [rate(ms), "ms"];
  if (ms < 60_000) return [fixed(ms / 1000, ms < 10_000 ? 2 : 1), "s"];
  return [clock(ms / 1000), ""];
}
export const lasting = (ms) => duration(ms).join(" ").trim();

const two = (n) => String(n).padStart(2, "0");

/** Seconds as m:ss or h:mm:ss. */
export function clock(seconds) {
  if (!ok(seconds)) return "–";
  const all = Math.max(0, Math.round(seconds)),
    hours = Math.floor(all / 3600),
    minutes = Math.floor(all / 60) % 60;
  return hours ? `${hours}:${two(minutes)}:${two(all % 60)}` : `${minutes}:${two(all % 60)}`;
}

/** The time of day of an epoch second, in the reader's zone. */
export function daytime(seconds, withSeconds = true) {
  if (!ok(seconds)) return "–";
  const at = new Date(seconds * 1000);
  return `${two(at.getHours())}:${two(at.getMinutes())}${withSeconds ? `:${two(at.getSeconds())}` : ""}`;
}

export function day(seconds) {
  const at = new Date(seconds * 1000);
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

/** How long ago an epoch second was. */
export function ago(seconds, now = Date.now() / 1000) {
  if (!ok(seconds) || seconds <= 0) return "never";
  const past = now - seconds;
  if (past < -60) return `${day(seconds)} ${daytime(seconds, false)}`;
  if (past < 2) return "just now";
  if (past < 90) return `${Math.round(past)} s ago`;
  if (past < 5400) return `${Math.round(past / 60)} min ago`;
  if (past < 129_600) return `${Math.round(past / 3600)} h ago`;
  return day(seconds);
}

/** A moment in words, and exactly when one points at it. */
export const moment = (seconds) =>
  h(
    "time",
    {
      datetime: ok(seconds) ? new Date(seconds * 1000).toISOString() : null,
      title: ok(seconds) && seconds > 0 ? `${day(seconds)} ${daytime(seconds)}` : null,
    },
    ago(seconds),
  );

export const tag = (text, kind = "", more = {}) =>
  h("span", { class: `tag ${kind}`.trim(), ...more }, h("span", {}, text));

export const empty = (title, text = "") => h("div", { class: "empty" }, h("b", {}, title), text);

/** A table: heads are [name, class] or name; returns the table and its body. */
export function table(caption, heads, attributes = {}) {
  const body = h("tbody");
  const cells = heads.map((head) => {
    const [name, kind] = Array.isArray(head) ? head : [head, null];
    return h("th", { scope: "col", class: kind }, name || h("span", { class: "sr" }, "Actions"));
  });
  return { body, node: h("table", attributes, h("caption", {}, caption), h("thead", {}, h("tr", {}, cells)), body) };
}

/** Let the rows of a table become cards on a phone: cells say their column, and the roles survive the other layout. `tight`:
 * first cell, state and buttons in one line, the rest in another. */
export function stack(node, tight = false) {
  node.classList.add("stack");
  node.classList.toggle("tight", tight);
  const heads = [...node.tHead.rows[0].cells].map((cell) => (cell.querySelector(".sr") ? "" : cell.textContent));
  const roles = { TABLE: "table", THEAD: "rowgroup", TBODY: "rowgroup", TR: "row", TD: "cell" };
  for (const part of [node, ...node.querySelectorAll("thead, tbody, tr, td")])
    part.setAttribute("role", roles[part.tagName]);
  for (const cell of node.querySelectorAll("th"))
    cell.setAttribute("role", cell.scope === "row" ? "rowheader" : "columnheader");
  for (const row of node.tBodies[0].rows)
    [...row.cells].forEach((cell, at) => {
      if (at && heads[at]) cell.dataset.label = heads[at];
    });
  return node;
}

export const scroll = (label, ...children) =>
  h("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": label }, ...children);

/** A card with its title, named by it. */
export const section = (id, title, note, ...children) =>
  h(
    "section",
    { class: "card", id, "aria-labelledby": `${id}-title` },
    h("div", { class: "head" }, h("h2", { id: `${id}-title` }, title), note ? h("p", {}, note) : null),
    ...children,
  );

/** One figure of the row of tiles. */
export function tile(label, value, unit = "", note = "", alert = false) {
  return h(
    "div",
    { class: alert ? "alert" : null },
    h("dt", {}, label),
    h("dd", { class: "value" }, value, unit ? h("small", {}, ` ${unit}`) : null),
    h("dd", { class: "note" }, note),
  );
}
