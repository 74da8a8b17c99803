/** One reaction of a user: into the log, and until it shows in the state. */

import * as api from "../api.js";

const PATIENCE_MS = 4000;
const sleep = (ms) =>
  new Promise((done) => {
    setTimeout(done, ms);
  });
const newId = () =>
  Array.from(crypto.getRandomValues(new Uint8Array(12)), (byte) => byte.toString(16).padStart(2, "0")).join("");

const marks = (state) => [...(state?.items ?? []), ...(state?.skips ?? [])];
const holds = (state, item, kind) =>
  marks(state)
    .filter((one) => one.item === item && (kind === "skip") === (state.skips ?? []).includes(one))
    .map((one) => one.time);

/** Whether `state` knows of the reaction and `known`, the one before, does not. */
function arrived(state, known, item, kind) {
  const before = holds(known, item, kind);
  return holds(state, item, kind).some((time) => !before.includes(time)) || marks(state).length > marks(known).length;
}

/**
 * Send it and wait until it shows. Resolves to {state, ackMs, seenMs}: milliseconds until the log had it and until the
 * state showed it (null = not within four seconds). Throws what is wrong if the service refuses it.
 */
export async function react({ user, kind, item, slot, decision, known }) {
  const began = performance.now();
  const [verdict] = await api.append([{ v: 1, id: `try-${newId()}`, kind, user, item, slot, decision }]);
  if (verdict.status === "rejected") throw new api.Problem(422, "The event was refused", verdict.reason);
  const ackMs = performance.now() - began;
  for (let wait = 8; performance.now() - began < PATIENCE_MS; wait = Math.min(1.5 * wait, 150)) {
    const state = await api.user(user).catch((error) => {
      if (error.status === 404) return null;
      throw error;
    });
    if (state && arrived(state, known, item, kind)) return { state, ackMs, seenMs: performance.now() - began };
    await sleep(wait);
  }
  return { state: known, ackMs, seenMs: null };
}
