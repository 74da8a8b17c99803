"""Policies as the command line names them: baselines, runs, specs, classes, tables, and wrappers around these."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from streamrec import checkpoint
from streamrec.build import BadSpec, build, did_you_mean
from streamrec.catalog import Catalog
from streamrec.ports import Agent, State
from streamrec.replay.explorers import EpsilonGreedy, PlackettLuce
from streamrec.replay.jury import Member
from streamrec.replay.table import Table
from streamrec.replay.translated import Translated

LOGGED = "logged"
"""The policy that made the log; it needs no agent."""

BASELINES: dict[str, dict[str, Any]] = {
    "random": {"use": "agents.random.Random"},
    "popular": {"use": "agents.popular.Popular"},
    "itemknn": {"use": "agents.itemknn.ItemKNN"},
    "vsknn": {"use": "agents.counting.Counting", "model": {"use": "streamrec.models.vsknn.VSKNN"}},
    "ease": {"use": "agents.counting.Counting", "model": {"use": "streamrec.models.ease.EASE"}},
}
"""What every report compares with, as tables of a spec."""

_WRAPPERS = {"epsilon-greedy": "epsilon", "softmax": "temperature", "plackett-luce": "temperature"}
_TEXT = re.compile(r"(?:(?P<name>[\w.+-]+)=)?(?P<what>[^@]+)(?:@(?P<wrapper>[a-z-]+)(?::(?P<number>[\d.eE+-]+))?)?")


@dataclass(frozen=True)
class Named:
    """One `--policy`: `[NAME=]WHAT[@WRAPPER[:NUMBER]]`.

    Attributes:
        what: `baseline:NAME`, `table:FILE`, a run directory (`DIR#NAME` for one policy of several), a .toml file with
            an `agent` table, or the dotted path of a class.
        wrapper: "epsilon-greedy", "softmax" or "plackett-luce", "" = as it is.
        number: the wrapper's epsilon or temperature, None = its default.
    """

    name: str
    what: str
    wrapper: str = ""
    number: float | None = None

    @classmethod
    def of(cls, text: str) -> Named:
        """Read from the command line.

        Raises:
            BadSpec: it is none.
        """
        found = _TEXT.fullmatch(text)
        if found is None:
            example = "baseline:popular@epsilon-greedy:0.05"
            raise BadSpec(f"--policy takes [NAME=]WHAT[@WRAPPER[:NUMBER]], such as {example}, got {text!r}")
        wrapper = found["wrapper"] or ""
        if wrapper and wrapper not in _WRAPPERS:
            raise BadSpec(f"--policy {text}: there is no wrapper {wrapper!r}{did_you_mean(wrapper, _WRAPPERS)}")
        try:
            number = float(found["number"]) if found["number"] else None
        except ValueError as error:
            raise BadSpec(f"--policy {text}: {found['number']!r} is no number") from error
        name = found["name"] or _short(found["what"])
        return cls(name + (f"+{wrapper}" if wrapper and not found["name"] else ""), found["what"], wrapper, number)


def _short(what: str) -> str:
    kind, colon, rest = what.partition(":")
    if colon and kind == "baseline":
        return rest
    if colon and kind == "table":
        return Path(rest).stem
    run, sharp, member = what.partition("#")
    if sharp:
        return member
    return Path(run).stem if "/" in run or run.endswith(".toml") else run.rpartition(".")[2].lower()


def with_baselines(wanted: Sequence[Named], leave_out: Mapping[str, str]) -> list[Named]:
    """`wanted` behind the baselines that are not among them; `leave_out`: those that cannot be, with the reason.

    Raises:
        BadSpec: two of one name.
    """
    plain = {named.what for named in wanted if not named.wrapper}
    first = [Named(name, f"baseline:{name}") for name in BASELINES if f"baseline:{name}" not in plain]
    policies = [*(n for n in first if n.name not in leave_out), *(n for n in wanted if n.what != f"baseline:{LOGGED}")]
    names = [named.name for named in policies] + [LOGGED]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise BadSpec(f"two policies are called {twice!r}: name one, as in --policy other={twice}")
    return policies


class Builder:
    """Makes members of a jury.

    Args:
        context: run-time objects by parameter name, as specs fill them in: `catalog`, `sessions`, `slate`, `seed`, ...
        kept: sessions that V-SKNN keeps.
        deep: policies of runs list as much as this replay looks at, not the slots they had; only if they do not learn.
    """

    def __init__(self, context: Mapping[str, Any], kept: int = 200_000, deep: bool = False) -> None:
        self.context, self.kept, self.deep = dict(context), kept, deep
        self.catalog: Catalog = context["catalog"]

    def member(self, named: Named) -> Member:
        """The policy, not learning yet by any rule of its own.

        Raises:
            BadSpec: it cannot be built.
        """
        kind, colon, rest = named.what.partition(":")
        where = f"--policy {named.what}"
        if colon and kind == "baseline":
            if rest not in BASELINES:
                raise BadSpec(f"{where}: there is no such baseline{did_you_mean(rest, [*BASELINES, LOGGED])}")
            return self._wrapped(named, build(self._baseline(rest), self.context, where), BASELINES[rest]["use"])
        if colon and kind == "table":
            return self._wrapped(named, self._table(rest), f"table {Path(rest).name}")
        run, _, part = named.what.partition("#")
        if Path(run).is_dir():
            return self._of_run(named, Path(run), part, where)
        if run.endswith(".toml"):
            spec = _toml(Path(run), where)
            return self._wrapped(named, build(_agent_table(spec, part, where), self.context, where), Path(run).name)
        return self._wrapped(named, build({"use": named.what}, self.context, where), named.what)

    def _baseline(self, name: str) -> dict[str, Any]:
        table = dict(BASELINES[name])
        if name == "vsknn":
            table["model"] = table["model"] | {"sessions": self.kept}
        return table

    def _table(self, path: str) -> Table:
        try:
            return Table(path, self.catalog, self.context["slate"])
        except (ValueError, OSError) as error:
            if type(error).__name__ == "Refused":
                raise
            raise BadSpec(str(error)) from error

    def _wrapped(self, named: Named, agent: Agent, about: str) -> Member:
        agent = self._explorer(named, agent, self.catalog)
        return Member(named.name, agent, agent, about + _said(named))

    def _explorer(self, named: Named, agent: Agent, catalog: Catalog) -> Agent:
        if not named.wrapper:
            return agent
        cls = EpsilonGreedy if named.wrapper == "epsilon-greedy" else PlackettLuce
        given = {} if named.number is None else {_WRAPPERS[named.wrapper]: named.number}
        try:
            return cls(agent, catalog, self.context["slate"], seed=self.context["seed"], **given)
        except ValueError as error:
            raise BadSpec(f"--policy {named.what}@{named.wrapper}: {error}") from error

    # --- runs ------------------------------------------------------------------------------------------------------

    def _of_run(self, named: Named, folder: Path, part: str, where: str) -> Member:
        """A policy as the newest checkpoint of a run left it."""
        spec = _toml(folder / "spec.toml", where)
        found = checkpoint.load_newest(folder / "checkpoints")
        if found is None:
            raise BadSpec(f"{where}: {folder} has no usable checkpoint; name the directory of a run")
        state, path = found
        own = build({"use": "streamrec.catalog.Catalog", **spec.get("catalog", {})}, self.context, where)
        own.load_state_dict(state["catalog"])
        wide = state["sessions"]["tables"]["context"].shape[1]
        if wide:
            raise BadSpec(f"{where}: requests of that run came with {wide} numbers (context), those of a log have none")
        table, saved = _agent_table(spec, part, where), _agent_state(spec, state["agent"], part)
        agent = self._loaded(table, saved, own, int(spec.get("run", {}).get("slate", 10)), where)
        explorer = self._explorer(named, agent, own)
        run, sessions = spec.get("run", {}), spec.get("sessions", {})
        widths = (int(sessions.get("length", 20)), int(sessions.get("skips", 20)), int(run.get("slate", 10)))
        translated = Translated(explorer, own, self.catalog, widths)
        return Member(
            named.name, translated, translated, f"{table.get('use')} of {folder.name}/{path.name}{_said(named)}"
        )

    def _loaded(self, table: dict[str, Any], saved: State, own: Catalog, slate: int, where: str) -> Agent:
        """With the slots the run had, or deeper where that is wanted and its weights do not depend on it."""
        for width in (self.context["slate"], slate) if self.deep else (slate,):
            agent: Agent = build(dict(table), self.context | {"catalog": own, "slate": width}, where)
            try:
                agent.load_state_dict(saved)
            except (ValueError, RuntimeError, KeyError) as error:
                reason = error
            else:
                return agent
        raise BadSpec(f"{where}: the checkpoint does not fit the run's spec: {reason}")


def _toml(path: Path, where: str) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise BadSpec(f"{where}: cannot read {path}: {error}") from error


def _agent_table(spec: dict[str, Any], part: str, where: str) -> dict[str, Any]:
    table: dict[str, Any] = spec.get("agent", {})
    if "use" not in table:
        raise BadSpec(f"{where}: expected a table [agent] with `use`")
    members: dict[str, Any] = table.get("agents", {})
    if not part:
        return table
    if part not in members:
        raise BadSpec(f"{where}: there is no policy {part!r}{did_you_mean(part, members)}")
    chosen: dict[str, Any] = members[part]
    return chosen


def _agent_state(spec: dict[str, Any], state: State, part: str) -> State:
    if not part:
        return state
    inner: State = state["agents"][part] if "agents" in state else state[part]
    return inner


def _said(named: Named) -> str:
    if not named.wrapper:
        return ""
    default = 0.05 if named.wrapper == "epsilon-greedy" else 1.0
    value = default if named.number is None else named.number
    return f", made a policy by {named.wrapper} with {_WRAPPERS[named.wrapper]} {value:g}"
