from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch

from streamrec import checkpoint

STATE = {
    "agent": {"w": torch.arange(6.0).reshape(2, 3), "names": ["a", "b"], "deep": {"n": 3, "none": None}},
    "loop": {"pending": 7, "delays": [1.5, torch.tensor(2)]},
}


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b) and a.dtype == b.dtype
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_round_trip(tmp_path: Path) -> None:
    assert same(checkpoint.load(checkpoint.save(tmp_path, STATE, 1)), STATE)


def test_tensors_that_share_memory_are_saved_apart(tmp_path: Path) -> None:
    w = torch.arange(4.0)
    state = {"agent": {"a": w, "b": w[1:]}}
    assert same(checkpoint.load(checkpoint.save(tmp_path, state, 1)), state)


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for number in range(1, 6):
        checkpoint.save(tmp_path, STATE, number, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000000004", "000000000005"]


@pytest.mark.parametrize("file", ["agent.safetensors", "agent.json", "loop.json", "manifest.json"])
def test_any_flipped_byte_is_refused_and_the_one_before_is_used(
    tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoint.save(tmp_path, STATE, 1)
    path = checkpoint.save(tmp_path, {**STATE, "loop": {"pending": 8}}, 2)
    data = bytearray((path / file).read_bytes())
    data[len(data) // 2] ^= 0x55
    (path / file).write_bytes(bytes(data))
    with caplog.at_level(logging.WARNING):
        found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found[0]["loop"]["pending"] == 7
    assert "the one before it is used" in caplog.text


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, STATE, 1)
    (path / "loop.json").unlink()
    with pytest.raises(checkpoint.DamagedCheckpoint, match="cannot be read"):
        checkpoint.load(path)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, STATE, 1)
    manifest = json.loads((path / "manifest.json").read_text()) | {"format": 99}
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(checkpoint.DamagedCheckpoint, match=r"format 99.*update streamrec"):
        checkpoint.load(path)


def test_a_crash_while_writing_leaves_the_old_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, STATE, 1)
    (tmp_path / ".writing-000000000002").mkdir()
    (tmp_path / ".writing-000000000002" / "agent.json").write_text("{")
    found = checkpoint.load_newest(tmp_path)
    assert found is not None
    assert found[1].name == "000000000001"


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="agent/x is a set"):
        checkpoint.save(tmp_path, {"agent": {"x": {1}}}, 0)
