/** What became of a list: who moved, who came, who went. */

/** Two lists of {item}: {moves: per slot of `after` {from, by} ("by" > 0 = up; from -1 = new), gone: [{item, from}]}. */
export function compare(before, after) {
  const was = new Map(before.map((one, slot) => [one.item, slot])),
    is = new Set(after.map((one) => one.item));
  const moves = after.map((one, slot) => {
    const from = was.get(one.item) ?? -1;
    return { from, by: from < 0 ? 0 : from - slot };
  });
  return { moves, gone: before.map((one, from) => ({ item: one.item, from })).filter((one) => !is.has(one.item)) };
}

export function counts({ moves, gone }) {
  const count = (test) => moves.filter(test).length;
  return {
    up: count((m) => m.by > 0),
    down: count((m) => m.by < 0),
    fresh: count((m) => m.from < 0),
    gone: gone.length,
  };
}

const PAST = { click: "clicked", skip: "skipped", purchase: "bought" };

/** What the user did. */
export const deed = (step) => (step.kind === "ask" ? step.cause || "looked" : `${PAST[step.kind]} ${step.item}`);

/** In words, such as "clicked i7: 3 up, 2 down, 1 new, 1 gone". */
export function summary(step) {
  const { up, down, fresh, gone } = counts(step.changes);
  const parts = [up && `${up} up`, down && `${down} down`, fresh && `${fresh} new`, gone && `${gone} gone`].filter(
    Boolean,
  );
  return `${deed(step)}: ${parts.length ? parts.join(", ") : "the list stayed as it was"}`;
}
