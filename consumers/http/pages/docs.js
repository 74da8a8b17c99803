// Lists the operations of /openapi.json and sends requests to them. Text only ever enters the page as text.
"use strict";

const LONGEST_SHOWN = 20000;
const STREAM_MS = 4000;

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child != null));
  return made;
}

function resolve(api, node) {
  if (!node || !node.$ref) return node;
  return node.$ref.slice(2).split("/").reduce((at, key) => at[key], api);
}

function typeOf(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").pop();
  if (schema.anyOf) return schema.anyOf.map(typeOf).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
  if (schema.type === "array") return `list of ${typeOf(schema.items)}`;
  return schema.type || "";
}

function bounds(schema) {
  const told = [["minimum", "from"], ["maximum", "to"], ["minLength", "at least"], ["maxLength", "at most"],
    ["maxItems", "at most"]];
  const parts = told.filter(([key]) => key in schema).map(([key, word]) => `${word} ${schema[key]}`);
  if ("default" in schema) parts.push(`default ${JSON.stringify(schema.default)}`);
  return parts.join(", ");
}

function fieldsOf(api, schema) {
  const named = schema.anyOf ? schema.anyOf.map((one) => one.items || one)[0] : schema;
  const full = resolve(api, named);
  if (!full || !full.properties) return null;
  const rows = Object.entries(full.properties).map(([name, field]) => element("tr", {},
    element("td", {}, element("code", {}, name), (full.required || []).includes(name) ? " (needed)" : ""),
    element("td", {}, typeOf(field)), element("td", { class: "quiet" }, bounds(field))));
  return element("div", {}, full.description ? element("p", { class: "quiet" }, full.description) : null,
    element("table", {}, element("tbody", {}, ...rows)));
}

function input(id, label, tag = "input") {
  const field = element(tag, { id, spellcheck: "false", autocomplete: "off" });
  return [element("label", { for: id }, label), field];
}

function parameterInputs(operation) {
  return (operation.parameters || []).map((parameter) => {
    const told = [parameter.in === "path" ? "needed" : "", bounds(parameter.schema)].filter(Boolean).join(", ");
    const [label, field] = input(`${operation.operationId}-${parameter.name}`,
      `${parameter.name} (${parameter.in}${told ? `; ${told}` : ""})`);
    return { parameter, label, field };
  });
}

function bodyInput(operation) {
  const content = operation.requestBody && operation.requestBody.content["application/json"];
  if (!content) return null;
  const [label, field] = input(`${operation.operationId}-body`, "body (JSON)", "textarea");
  const examples = Object.entries(content.examples || {});
  const show = (value) => { field.value = JSON.stringify(value, null, 2); };
  if (examples.length) show(examples[0][1].value);
  if (examples.length < 2) return { label, field, content, choice: [] };
  const [choiceLabel, choice] = input(`${operation.operationId}-example`, "example", "select");
  for (const [name] of examples) choice.append(element("option", {}, name));
  choice.addEventListener("change", () => show(examples[choice.selectedIndex][1].value));
  return { label, field, content, choice: [choiceLabel, choice] };
}

function urlFor(path, inputs) {
  const search = new URLSearchParams();
  for (const { parameter, field } of inputs) {
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(field.value));
    else if (field.value) search.set(parameter.name, field.value);
  }
  return search.size ? `${path}?${search}` : path;
}

async function read(response) {
  if (!(response.headers.get("content-type") || "").startsWith("text/event-stream")) return response.text();
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  const end = Date.now() + STREAM_MS;
  let text = "";
  while (Date.now() < end) {
    const { done, value } = await reader.read();
    if (done) return text;
    text += decoder.decode(value, { stream: true });
  }
  reader.cancel();
  return `${text}(the stream goes on)`;
}

function pretty(text) {
  try { return JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

async function send(method, url, body, shown) {
  const headers = body === undefined ? {} : { "Content-Type": "application/json" };
  const token = document.getElementById("token").value;
  if (token) headers.Authorization = `Bearer ${token}`;
  const began = performance.now();
  try {
    const response = await fetch(url, { method, headers, body });
    const text = pretty(await read(response));
    const took = Math.round(performance.now() - began);
    shown.replaceChildren(
      element("p", {}, element("strong", { class: response.ok ? "good" : "bad" }, String(response.status)),
        ` ${method} ${url}, ${took} ms, request ${response.headers.get("x-request-id")}`),
      element("pre", { tabindex: "0" }, text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN)}\n(cut)` : text));
  } catch (error) {
    shown.replaceChildren(element("p", { class: "bad" }, `No answer: ${error.message}`));
  }
}

function responsesOf(api, operation) {
  const rows = Object.entries(operation.responses).map(([status, given]) => element("tr", {},
    element("td", {}, element("code", {}, status)), element("td", {}, resolve(api, given).description)));
  return element("details", {}, element("summary", {}, "Answers"),
    element("div", {}, element("table", {}, element("tbody", {}, ...rows))));
}

function operationOf(api, path, method, operation) {
  const inputs = parameterInputs(operation);
  const body = bodyInput(operation);
  const shown = element("div", { role: "status", "aria-live": "polite" });
  const form = element("form", {}, ...inputs.flatMap(({ label, field }) => [label, field]));
  if (body) form.append(...body.choice, body.label, body.field);
  const button = element("button", { type: "submit" }, "Send");
  form.append(button);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    button.disabled = true;
    await send(method.toUpperCase(), urlFor(path, inputs), body ? body.field.value : undefined, shown);
    button.disabled = false;
  });
  const needs = (operation.security || []).map((one) => `token ${one.token.join(", ") || "of any scope"}`).join();
  return element("details", { id: operation.operationId },
    element("summary", {}, element("span", { class: "method" }, method.toUpperCase()), element("code", {}, path),
      element("span", {}, operation.summary), needs ? element("span", { class: "quiet" }, needs) : null),
    element("div", {}, operation.description ? element("p", {}, operation.description) : null,
      body ? fieldsOf(api, body.content.schema) : null, form, shown, responsesOf(api, operation)));
}

function show(api) {
  const main = document.getElementById("operations");
  const all = Object.entries(api.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })));
  const sections = api.tags.map((tag) => element("section", {}, element("h2", {}, tag.name),
    element("p", { class: "quiet" }, tag.description),
    ...all.filter(({ operation }) => operation.tags.includes(tag.name))
      .map(({ path, method, operation }) => operationOf(api, path, method, operation))));
  main.replaceChildren(...sections);
  main.removeAttribute("aria-busy");
  document.getElementById("token-line").hidden = !api.components.securitySchemes;
  const named = document.getElementById(location.hash.slice(1));
  if (named instanceof HTMLDetailsElement) {
    named.open = true;
    named.scrollIntoView();
  }
}

fetch("/openapi.json").then((response) => response.json()).then(show).catch((error) => {
  document.getElementById("operations").replaceChildren(element("p", { class: "bad" }, `No document: ${error.message}`));
});
