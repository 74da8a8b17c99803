"""Atomic checkpoints: tensors as safetensors, the rest as JSON, a manifest with hashes. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from streamrec import __version__
from streamrec.ports import State

log = logging.getLogger(__name__)

FORMAT = 1
"""Version of the layout below. A reader refuses what is newer than itself."""

_TENSOR = "__tensor__"
_PLAIN = frozenset({str, int, float, bool, type(None)})


class DamagedCheckpoint(ValueError):
    """A checkpoint that must not be used, with the reason."""


def save(folder: Path, state: State, number: int, keep: int = 3, durable: bool = True) -> Path:
    """Write `state` as checkpoint `number` into `folder`, all or nothing, and drop all but the newest `keep`.

    Each top-level entry becomes `<name>.safetensors` and `<name>.json`. Files are written under a temporary name and
    fsynced before the directory is renamed into place, so a crash leaves the checkpoints before it untouched.

    Args:
        folder: made if it is not there.
        state: tensors, numbers, strings, and lists and dictionaries of them.
        number: of the checkpoint, in the name of its directory.
        keep: how many are left in the folder.
        durable: False = not fsynced, in half of the time: a power failure may damage the checkpoints of the last
            minute, which the hashes tell.

    Returns:
        the checkpoint's directory.
    """
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"{number:012d}"
    temporary = folder / f".writing-{number:012d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    hashes = {}
    for name, tree in state.items():
        tensors: dict[str, Tensor] = {}
        plain = _split(tree, name, tensors)
        (temporary / f"{name}.json").write_text(_dumps(plain))
        save_file(tensors, temporary / f"{name}.safetensors")
        for file in (f"{name}.json", f"{name}.safetensors"):
            hashes[file] = _sha256(temporary / file)
    manifest = {"format": FORMAT, "streamrec": __version__, "torch": torch.__version__, "sha256": hashes}
    (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1))
    for path in (*temporary.iterdir(), temporary) if durable else ():
        _fsync(path)
    shutil.rmtree(final, ignore_errors=True)
    os.replace(temporary, final)
    if durable:
        _fsync(folder)
    for old in _existing(folder)[:-keep]:
        shutil.rmtree(old)
    return final


def load(path: Path) -> State:
    """Read the checkpoint directory `path`.

    Raises:
        DamagedCheckpoint: a file is missing or altered, or the layout is newer than this version.
    """
    try:
        manifest = json.loads((path / "manifest.json").read_text())
        if manifest["format"] > FORMAT:
            raise DamagedCheckpoint(
                f"{path} has format {manifest['format']}, this version reads up to {FORMAT}: update streamrec"
            )
        for file, digest in manifest["sha256"].items():
            if _sha256(path / file) != digest:
                raise DamagedCheckpoint(f"{path / file} does not match its sha256 in manifest.json")
        names = [file.removesuffix(".json") for file in manifest["sha256"] if file.endswith(".json")]
        return {name: _read(path, name) for name in names}
    except (OSError, json.JSONDecodeError, KeyError, UnicodeDecodeError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error!r}") from error


def load_newest(folder: Path) -> tuple[State, Path] | None:
    """The newest checkpoint in `folder` that is whole; damaged ones are reported and passed over. None if none is."""
    for path in reversed(_existing(folder)):
        try:
            return load(path), path
        except DamagedCheckpoint as error:
            log.warning("checkpoint refused, the one before it is used: %s", error)
    return None


def numbers(folder: Path) -> list[int]:
    """Of the checkpoints in `folder`, rising; whether they are whole turns out when they are loaded."""
    return [int(path.name) for path in _existing(folder)]


def load_number(folder: Path, number: int) -> State | None:
    """The checkpoint of that number, None if it is damaged, which is reported."""
    try:
        return load(folder / f"{number:012d}")
    except DamagedCheckpoint as error:
        log.warning("checkpoint refused: %s", error)
        return None


def _existing(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("[0-9]*") if path.is_dir())


def _split(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    """`tree` as JSON, its tensors moved into `tensors` under their path."""
    if isinstance(tree, Tensor):
        # Cloned, because safetensors refuses tensors that share memory.
        tensors[path] = tree.detach().to("cpu").contiguous().clone()
        return {_TENSOR: path}
    if isinstance(tree, dict):
        for key in tree:
            if not isinstance(key, str):
                raise TypeError(f"keys of a state must be strings, {path} has {key!r}")
        return {key: _split(value, f"{path}/{key}", tensors) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        if all(_is_plain(value) for value in tree):
            return tree  # ids of thousands of items, or thousands of short records
        return [_split(value, f"{path}/{at}", tensors) for at, value in enumerate(tree)]
    if tree is None or isinstance(tree, bool | int | float | str):
        return tree
    raise TypeError(f"{path} is a {type(tree).__name__}; a state holds tensors, numbers, strings, lists and dicts")


def _is_plain(value: Any) -> bool:
    """Whether a value is JSON as it is: a number, a text, or a list of them."""
    kind = type(value)
    return kind in _PLAIN or (kind is list and _PLAIN.issuperset(map(type, value)))


def _dumps(plain: Any) -> str:
    """JSON, one entry after the other: a single call would hold the interpreter, for a tenth of a second where a thread
    saves the users of a service that answers on another.
    """
    if not isinstance(plain, dict):
        return json.dumps(plain)
    return f"{{{', '.join(f'{json.dumps(key)}: {_dumps(value)}' for key, value in plain.items())}}}"


def _read(path: Path, name: str) -> Any:
    tensors = load_file(path / f"{name}.safetensors")

    def joined(found: dict[str, Any]) -> Any:
        return tensors[found[_TENSOR]] if found.keys() == {_TENSOR} else found

    return json.loads((path / f"{name}.json").read_text(), object_hook=joined)


def _sha256(path: Path) -> str:
    """In one call, which leaves the interpreter to other threads: in pieces, it would be asked back for each."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:  # cannot be mapped
            return hashlib.sha256().hexdigest()
        with mmap(file.fileno(), 0, access=ACCESS_READ) as whole:
            return hashlib.sha256(whole).hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
