/** Every request to the service. A token, where the service asks for one, is kept for this tab only. */

const KEY = "streamrec.token";
const id = encodeURIComponent;

/** What the service says is wrong (RFC 9457), or that it cannot be reached (status 0). */
export class Problem extends Error {
  constructor(status, title, detail = "") {
    super(detail ? `${title}: ${detail}` : title);
    this.status = status;
  }
}

export const token = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

/** Called on 401 and 403; resolves to true once there is another token to try. */
let askForToken = async () => false;
export const onDenied = (ask) => {
  askForToken = ask;
};

export function open(method, path, body, signal, more = {}) {
  const headers = { ...more, Accept: "application/json, text/event-stream" };
  if (token.get()) headers.Authorization = `Bearer ${token.get()}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  return fetch(path, {
    method,
    headers,
    signal,
    cache: "no-store",
    body: body === undefined ? undefined : JSON.stringify(body),
  });
}

export async function problem(answer) {
  let said = {};
  try {
    said = await answer.json();
  } catch {
    /* not JSON: the status has to do */
  }
  return new Problem(answer.status, said.title ?? `Answer ${answer.status}`, said.detail);
}

async function call(method, path, body) {
  let answer;
  try {
    answer = await open(method, path, body);
  } catch {
    throw new Problem(0, "The service does not answer");
  }
  if ((answer.status === 401 || answer.status === 403) && (await askForToken(answer.status)))
    return call(method, path, body);
  if (!answer.ok) throw await problem(answer);
  return answer.status === 204 ? null : answer.json();
}

const get = (path) => call("GET", path);
const search = (path, query, limit) => get(`${path}?query=${id(query)}&limit=${limit}`);

/** A list for a person, who waits longer than the page of a shop: the model is given a second. */
export const recommend = (user, k) => call("POST", "v1/recommend", { user, k, explain: true, deadline_ms: 1000 });
export const append = async (events) => (await call("POST", "v1/events", events)).events;
export const users = async (query, limit = 50) => (await search("v1/users", query, limit)).users;
export const user = (name) => get(`v1/users/${id(name)}/state`);
export const erase = (name) => call("DELETE", `v1/users/${id(name)}`);
export const items = async (query, limit = 50) => (await search("v1/items", query, limit)).items;
export const upsert = (list) => call("PUT", "v1/items", list);
export const retire = (item) => call("DELETE", `v1/items/${id(item)}`);
export const models = async () => (await get("v1/models")).models;
export const promote = (version) => call("POST", `v1/models/${id(version)}/promote`);
export const rollback = () => call("POST", "v1/models/rollback");
export const shadow = (version) => call("POST", `v1/models/${id(version)}/shadow`);
export const noShadow = () => call("DELETE", "v1/models/shadow");
export const deadLetters = async (limit) => (await get(`v1/dead-letters?limit=${limit}`)).dead_letters;
export const stream = (signal, newest) =>
  open("GET", "v1/stream", undefined, signal, newest ? { "Last-Event-ID": newest } : {});

/** The parts of readiness; the service answers 503 while one of them is not well. */
export async function health() {
  let answer;
  try {
    answer = await open("GET", "readyz");
  } catch {
    throw new Problem(0, "The service does not answer");
  }
  if (!answer.ok && answer.status !== 503) throw await problem(answer);
  return answer.json();
}
