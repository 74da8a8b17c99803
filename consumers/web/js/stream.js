/** The live records: read from the stream, kept for the charts, and watched for silence. */

import { onDenied, problem, stream as request, token } from "./api.js";
import { ok } from "./dom.js";

const KEEP = 3600; // rows kept; beyond that every second one is dropped, evenly, again and again
const QUIET_MS = 3500; // a record comes every second
export const live = { last: null, rows: [], swaps: [], state: "waiting", says: "connecting", more: "", at: 0 };

const watchers = new Set();
/** Call `watcher` whenever there is a new record or another state of the connection; returns how to stop. */
export function watch(watcher) {
  watchers.add(watcher);
  return () => watchers.delete(watcher);
}

let newest = ""; // id of the record seen last: what was missed since comes after a loss
let count = 0,
  stride = 1,
  retryMs = 500,
  quiet = 0,
  current = null;

function tell() {
  for (const watcher of watchers) watcher(live);
}

function say(state, says, more = "") {
  if (live.state === state && live.says === says && live.more === more) return;
  Object.assign(live, { state, says, more });
  tell();
}

function take(record) {
  Object.assign(live, { last: record, at: performance.now(), state: "live", says: "live", more: "" });
  if (live.rows.length && live.rows.at(-1).at % stride) live.rows.pop();
  if (!live.rows.length || record.t > live.rows.at(-1).record.t) live.rows.push({ at: count++, record });
  if (live.rows.length > KEEP) {
    stride *= 2;
    live.rows = live.rows.filter((row, i) => row.at % stride === 0 || i === live.rows.length - 1);
  }
  for (const swap of record.swaps ?? []) {
    if (!live.swaps.some((s) => s.t === swap.t && s.version === swap.version && s.outcome === swap.outcome))
      live.swaps.push({ ...swap, chosen: record.model?.pinned === true && record.model.version === swap.version });
  }
  if (live.swaps.length > KEEP) live.swaps.splice(0, live.swaps.length - KEEP);
  clearTimeout(quiet);
  quiet = setTimeout(hush, QUIET_MS);
  tell();
}

/** Says how old the figures are, again and again, until a record comes. */
function hush() {
  if (live.state === "live" || live.state === "stale")
    say("stale", "no news", ` for ${Math.round((performance.now() - live.at) / 1000)} s`);
  quiet = setTimeout(hush, 1000);
}

/** The points of one series: value(record) over time, from `since` on. */
export const points = (value, since = 0) =>
  live.rows
    .filter((r) => r.record.t >= since && ok(value(r.record)))
    .map((r) => ({ x: r.record.t, y: value(r.record) }));

/** One event of the stream, which ends with an empty line. */
function handle(text) {
  const data = text
    .split("\n")
    .filter((line) => line.startsWith("data:"))
    .map((line) => line.slice(5))
    .join("\n");
  const name = text
    .split("\n")
    .find((line) => line.startsWith("event:"))
    ?.slice(6)
    .trim();
  const id = text.split("\n").find((line) => line.startsWith("id:"));
  if (id) newest = id.slice(3).trim();
  if (!data || (name && name !== "live")) return;
  try {
    take(JSON.parse(data));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw error;
  }
}

async function readAll(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const parts = (rest + value.replaceAll("\r\n", "\n")).split("\n\n");
    rest = parts.pop();
    parts.forEach(handle);
    retryMs = 500;
  }
}

const sleep = (ms) =>
  new Promise((done) => {
    setTimeout(done, ms);
  });

/** Reads the stream for as long as the page lives; comes back after every loss. `ask` gets another token. */
export async function run(ask) {
  onDenied(ask);
  for (;;) {
    current = new AbortController();
    let lost = "connection lost";
    try {
      const answer = await request(current.signal, newest);
      if (answer.status === 401 || answer.status === 403) {
        say("lost", token.get() ? "the token is not accepted" : "a token is needed");
        if (!(await ask(answer.status))) await sleep(5000);
        continue;
      }
      if (!answer.ok) throw await problem(answer);
      if (live.state !== "live") say("waiting", "waiting for data");
      await readAll(answer.body);
    } catch (error) {
      if (error.status !== undefined) lost = "not open yet";
      else if (error.name !== "AbortError" && !(error instanceof TypeError)) console.error(error);
    }
    await pause(lost);
  }
}

async function pause(what) {
  clearTimeout(quiet);
  for (let left = retryMs; left > 0; left -= 1000) {
    say("lost", what, `, trying again in ${Math.ceil(left / 1000)} s`);
    await sleep(Math.min(left, 1000));
  }
  retryMs = Math.min(retryMs * 2, 8000);
  say("lost", what, ", trying again");
}

/** Drop the connection and make another, with the token of now. */
export function reconnect() {
  retryMs = 500;
  current?.abort();
}
