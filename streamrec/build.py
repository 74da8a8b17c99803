"""From a spec to objects. A table with `use = "package.module.Class"` becomes that class called with its other keys.

Keywords of the constructor are the configuration; there is no registry. What is known only at run time (`catalog`,
`sessions`, `slate`, `seed`, `device`, `run_dir`) fills the parameters of these names that the spec leaves open.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any


class BadSpec(ValueError):
    """A spec that cannot be built: where, what is wrong, and what was probably meant."""


def build(value: Any, context: Mapping[str, Any], where: str) -> Any:
    """Build a value of a spec: tables with `use` become objects, innermost first; everything else stays.

    Args:
        value: what the TOML file says.
        context: run-time objects by parameter name.
        where: dotted place in the spec, for error messages.

    Raises:
        BadSpec: a class that does not exist, a keyword it does not take or needs, or a value it refuses.
    """
    if isinstance(value, list):
        return [build(item, context, f"{where}[{at}]") for at, item in enumerate(value)]
    if not isinstance(value, Mapping):
        return value
    built = {key: build(item, context, f"{where}.{key}") for key, item in value.items() if key != "use"}
    if "use" not in value:
        return built
    return _call(find(value["use"], where), built, context, where)


def find(path: Any, where: str) -> Callable[..., Any]:
    """The class or function at a dotted path.

    Raises:
        BadSpec: nothing is there; says what is.
    """
    if not isinstance(path, str) or "." not in path:
        raise BadSpec(f'{where}.use must be a dotted path such as "agents.dqn.DQN", got {path!r}')
    module_name, _, name = path.rpartition(".")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise BadSpec(f"{where}.use = {path!r} needs the package {error.name!r}, which is not installed") from error
        near = _near_module(module_name)
        raise BadSpec(f"{where}.use = {path!r}: there is no module {error.name!r}{near}") from error
    target = getattr(module, name, None)
    if not callable(target):
        names = [n for n, v in vars(module).items() if inspect.isclass(v) and v.__module__ == module_name]
        raise BadSpec(f"{where}.use: {module_name} has no {name!r}{did_you_mean(name, names)}")
    return target  # type: ignore[no-any-return]


def _call(target: Callable[..., Any], given: dict[str, Any], context: Mapping[str, Any], where: str) -> Any:
    parameters = inspect.signature(target).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    path = f"{target.__module__}.{target.__qualname__}"
    for key in given:
        if key not in parameters and not takes_any:
            raise BadSpec(f"{where}: {path} takes no {key!r}{did_you_mean(key, parameters)}")
    filled = {name: context[name] for name in parameters if name in context and name not in given}
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    needed = [name for name, p in parameters.items() if p.default is p.empty and p.kind not in open_ended]
    missing = [name for name in needed if name not in given and name not in filled]
    if missing:
        raise BadSpec(f"{where}: {path} needs {', '.join(map(repr, missing))}, which the spec does not give")
    try:
        return target(**given, **filled)
    except (TypeError, ValueError) as error:
        raise BadSpec(f"{where}: {path}: {error}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'? (it takes a, b, c)`, the tail of an error message."""
    known = list(known)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return f"{meant} (there is {', '.join(known)})" if known else meant


def _near_module(name: str) -> str:
    parent_name, _, leaf = name.rpartition(".")
    if not parent_name:
        return ""
    try:
        parent = importlib.import_module(parent_name)
    except ModuleNotFoundError:
        return ""
    return did_you_mean(leaf, [m.name for m in pkgutil.iter_modules(getattr(parent, "__path__", []))])
