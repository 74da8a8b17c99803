"""Learners of one model, in processes of their own, against one that has all the data."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from streamrec import parallel
from streamrec.catalog import Catalog
from tests.streamrec.parallel_learner import BATCH, ITEMS, Net, learn


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


KINDS = ("optimiser", "adagrad", "adam", "idle", "rare", "other-items", "other-weights", "foreign", "gone", "items")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, str]]]:
    """Two learners go through all `KINDS`: the folder of their weights, and what each said."""
    out = tmp_path_factory.mktemp("learners")
    pairs = [f"{kind}:{free_port()}" for kind in KINDS]
    command = [sys.executable, "-m", "tests.streamrec.parallel_learner", str(out), *pairs]
    common = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    learners = [
        subprocess.Popen(command, env={**common, "RANK": str(rank)}, stdout=subprocess.PIPE, text=True)
        for rank in range(2)
    ]
    try:
        said = [json.loads(learner.communicate(timeout=200)[0]) for learner in learners]
    finally:
        for learner in learners:
            learner.kill()
            learner.wait()
    return out, said


Together = tuple[Path, list[dict[str, str]]]


def weights(together: Together, kind: str) -> list[dict[str, Tensor]]:
    out, said = together
    assert [one[kind] for one in said] == ["", ""]
    return [load_file(out / f"{kind}-{rank}.safetensors") for rank in range(2)]


def alone(kind: str) -> dict[str, Tensor]:
    """One learner with the whole of every batch."""
    net = Net(seed=1)
    learn(net, Catalog(ITEMS), kind, slice(0, BATCH), lambda at: False, range(0))
    return net.state_dict()


@pytest.mark.parametrize("kind", ["optimiser", "adagrad", "adam"])
def test_two_learners_with_half_of_each_batch_equal_one_with_all_of_it(kind: str, together: Together) -> None:
    first, second = weights(together, kind)
    whole = alone(kind)
    start = Net(seed=1).state_dict()
    for name, expected in whole.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], expected, rtol=1e-4, atol=1e-5)
    assert not torch.equal(start["items.weight"], first["items.weight"])
    assert not torch.equal(start["layer.weight"], first["layer.weight"])


@pytest.mark.parametrize("kind", ["idle", "rare"])
def test_weights_stay_equal_when_one_has_nothing_to_learn_from(kind: str, together: Together) -> None:
    first, second = weights(together, kind)
    for name in first:
        assert torch.equal(first[name], second[name]), name
    moved = not torch.equal(first["rare.weight"], Net(seed=1).state_dict()["rare.weight"])
    assert moved == (kind == "rare")


@pytest.mark.parametrize(
    ("kind", "says"),
    [("other-items", "catalogues differ"), ("other-weights", "different weights"), ("foreign", "SGD")],
)
def test_what_cannot_be_shared_is_refused(kind: str, says: str, together: Together) -> None:
    assert all(says in said[kind] for said in together[1])


def test_who_is_left_alone_is_told_so_and_does_not_wait(together: Together) -> None:
    first, second = (said["gone"] for said in together[1])
    assert "another learner has gone" in first
    assert "--resume" in first
    assert second == ""


def test_new_items_get_the_same_rows_wherever_they_turned_up(together: Together) -> None:
    first, second = (json.loads(said["items"]) for said in together[1])
    assert first == second
    assert first["ids"] == ["", "both", "zero", "one", "again", "told"]
    assert first["available"] == [False, True, True, True, True, False]


def test_the_newest_checkpoint_that_all_have_is_gone_on_from(together: Together) -> None:
    """They have 1, 2, 3 and 2, 3, 4, and the second one's 3 is damaged."""
    assert [json.loads(said["items"])["number"] for said in together[1]] == [2, 2]


def test_items_that_expire_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "0")
    with pytest.raises(parallel.OutOfStep, match="ttl_s"):
        parallel.start(2, Catalog(3, ttl_s=5.0))


def test_each_learner_has_a_folder_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for rank, expected in (("0", tmp_path), ("2", tmp_path / "learner-2")):
        monkeypatch.setenv("RANK", rank)
        assert parallel.folder(tmp_path, 3) == expected
        assert parallel.folder(tmp_path, 1) == tmp_path


def test_without_an_environment_it_says_how_to_start(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(parallel.OutOfStep, match="torchrun --nproc-per-node 2"):
        parallel.start(2, Catalog(3))
    assert parallel.start(1, Catalog(3)) is None
