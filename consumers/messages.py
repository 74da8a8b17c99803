"""Events and decisions as messages: what goes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from consumers.wire import NAMES, DecisionMessage, Event, encode
from streamrec.catalog import Catalog
from streamrec.records import Decision, Events, Kind
from streamrec.sessions import SessionStore


def from_events(
    events: Events, catalog: Catalog, sessions: SessionStore, ids: Mapping[int, str] | None = None
) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of the records for `events`, in order. Sessions, of which events hold a hash, are left out.

    Args:
        events: what happened.
        catalog: knows the items' ids.
        sessions: knows the users' ids.
        ids: ids of requests, by row of `events`.
    """
    ids = ids or {}
    users = sessions.user_ids(events.user)
    columns = (events.kind, events.item, events.time, events.value, events.decision, events.slot)
    rows = zip(users, *(c.tolist() for c in columns), strict=True)
    slates, said = _shown(events, catalog), _said(events, catalog)
    for at, (user, kind, item, time, value, decision, slot) in enumerate(rows):
        message = Event(NAMES[kind], user, 1, catalog.ids[item], time, value, "", decision, slot)
        if at in ids:
            message.id = ids[at]
        if at in slates:
            message.slate, message.slot_logp = slates[at]
        if at in said:
            message.context, message.candidates = said[at]
        yield user.encode(), encode(message)


def _shown(events: Events, catalog: Catalog) -> dict[int, tuple[list[str], list[float | None]]]:
    """Ids and log-propensities of the slates that rows carry, by row."""
    slates: dict[int, tuple[list[str], list[float | None]]] = {}
    sizes = (events.shown > 0).sum(1)
    for at in torch.nonzero(sizes).squeeze(1).tolist():
        rows = events.shown[at, : int(sizes[at])].tolist()
        slates[at] = [catalog.ids[row] for row in rows], list(events.slot_logp[at, : len(rows)].tolist())
    return slates


def _said(events: Events, catalog: Catalog) -> dict[int, tuple[Sequence[float], Sequence[str]]]:
    """Contexts and ids of the candidates that requests carry, by row."""
    if not events.context.shape[1] and not events.offer.shape[1]:
        return {}
    at = torch.nonzero(events.kind == int(Kind.REQUEST)).squeeze(1)
    contexts = [context or () for context in events.context[at].tolist()]
    offers = [[catalog.ids[row] for row in offer if row] or () for offer in events.offer[at].tolist()]
    return dict(zip(at.tolist(), zip(contexts, offers, strict=True), strict=True))


def from_decisions(
    decision: Decision,
    asked: Events,
    catalog: Catalog,
    sessions: SessionStore,
    policies: Sequence[str],
    requests: Sequence[str] = (),
) -> Iterator[tuple[bytes, bytes]]:
    """(key, value) of the records for `decision`, the answer to the requests `asked`, row for row.

    Args:
        decision: slates, with their propensities and the policy that decided.
        asked: the requests.
        catalog: knows the items' ids.
        sessions: knows the users' ids.
        policies: names of the policies by `decision.policy`.
        requests: ids of the requests, "" = none; empty = none has one.
    """
    users = sessions.user_ids(decision.user)
    sizes = ((decision.slate > 0) * torch.arange(1, decision.slate.shape[1] + 1)).amax(1).tolist()
    columns = (decision.id, decision.slate, decision.logp, decision.slot_logp, decision.policy, asked.time)
    rows = zip(users, sizes, *(c.tolist() for c in columns), requests or [""] * len(users), strict=True)
    ids = catalog.ids
    for user, size, number, slate, logp, slot_logp, policy, time, request in rows:
        items = [ids[row] for row in slate[:size]]  # slots below the last item are empty
        name = policies[policy] if policy < len(policies) else str(policy)
        message = DecisionMessage(number, user, time, items, logp, slot_logp[:size], name, request)
        yield user.encode(), encode(message)
