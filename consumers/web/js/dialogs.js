/** Questions and short messages. */

import { token } from "./api.js";
import { byId, h } from "./dom.js";

export function toast(text, bad = false) {
  const node = h("div", { class: bad ? "toast bad" : "toast" }, text);
  byId("toasts").append(node);
  setTimeout(() => node.remove(), bad ? 8000 : 4000);
}

/** Run something that may fail, and say so if it does. Returns whether it went well. */
export async function attempt(action, done = "") {
  try {
    await action();
    if (done) toast(done);
    return true;
  } catch (error) {
    if (error.status === undefined) console.error(error);
    toast(error.message, true);
    return false;
  }
}

/** A dialog of its own for each question: `close` is told later, when the next question may be open already. */
function ask(title, build) {
  const dialog = h("dialog", { "aria-label": title }, h("h2", {}, title)),
    back = document.activeElement;
  return new Promise((resolve) => {
    build(dialog);
    dialog.addEventListener(
      "close",
      () => {
        dialog.remove();
        if (back?.isConnected && !document.querySelector("dialog[open]")) back.focus();
        resolve(dialog.returnValue);
      },
      { once: true },
    );
    document.body.append(dialog);
    dialog.showModal();
  });
}

const buttons = (yes, danger) =>
  h(
    "div",
    { class: "row" },
    h("button", { type: "submit", value: "", formnovalidate: true }, "Cancel"),
    h("button", { type: "submit", value: "yes", class: danger ? "main danger" : "main" }, yes),
  );

/** Resolves to whether the reader agreed. */
export async function confirm({ title, text, yes, danger = false }) {
  return (
    (await ask(title, (dialog) => {
      const form = h(
        "form",
        { method: "dialog" },
        ...[text].flat().map((line) => h("p", {}, line)),
        buttons(yes, danger),
      );
      dialog.append(form);
      queueMicrotask(() => form.querySelector(danger ? "button[value='']" : "button[value=yes]").focus());
    })) === "yes"
  );
}

let asking = null;

/** Asks for a token; resolves to whether one was given. One question at a time, whoever asks. */
export function askToken(status = 0) {
  asking ??= askTokenNow(status).finally(() => {
    asking = null;
  });
  return asking;
}

async function askTokenNow(status) {
  const field = h("input", {
    type: "password",
    id: "token-field",
    autocomplete: "off",
    spellcheck: "false",
    value: token.get(),
  });
  const why = {
    401: token.get() ? "The service does not accept this token." : "The service asks for a token.",
    403: "This token may not do that.",
  }[status];
  const answer = await ask("Token", (dialog) => {
    dialog.append(
      h(
        "form",
        { method: "dialog" },
        why ? h("p", { class: "wrong" }, why) : null,
        h("p", {}, "It is kept for this tab only and forgotten when the tab is closed. Leave it empty to use none."),
        h("label", { class: "field" }, "Token", field),
        h(
          "div",
          { class: "row" },
          h("button", { type: "button", click: () => dialog.close("") }, "Cancel"),
          h("button", { type: "submit", value: "yes", class: "main" }, "Use it"),
        ),
      ),
    );
  });
  if (answer !== "yes") return false;
  token.set(field.value.trim());
  return true;
}
