"""Versions on disk: those the learner published last, and a few that are kept to fall back on."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from pathlib import Path
from typing import Any

from consumers.serving.checks import digest
from consumers.serving.types import ModelInfo

log = logging.getLogger(__name__)


class Shelved:
    """A folder of versions, `kept/` in it, and `registry.json` with what is thought of them.

    Args:
        folder: where the learner publishes.
        retained: versions in `kept/`, beside the anchor.

    Attributes:
        anchor: the version that stays whatever its age.
    """

    def __init__(self, folder: Path, retained: int) -> None:
        self.folder, self.retained = folder, retained
        self.anchor = ""
        folder.mkdir(parents=True, exist_ok=True)

    def published(self) -> list[Path]:
        """What the learner has there now, oldest first."""
        return sorted(path for path in self.folder.glob("[0-9]*") if path.name.isdigit())

    def all(self) -> list[Path]:
        """Those and the kept ones, each once, oldest first."""
        kept = {path.name: path for path in (self.folder / "kept").glob("[0-9]*")}
        return [path for _, path in sorted((kept | {path.name: path for path in self.published()}).items())]

    def path(self, version: str) -> Path | None:
        """Where `version` can be loaded from; None = nowhere."""
        if not (version.isascii() and version.isdigit()):
            return None
        for path in (self.folder / version, self.folder / "kept" / version):
            if (path / "manifest.json").exists():
                return path
        return None

    def keep(self, version: str) -> bool:
        """Keep a version when the learner drops it, by links, at no cost but its size. False: it is gone already."""
        kept = self.folder / "kept"
        target, source = kept / version, self.folder / version
        if target.exists() or not source.exists():
            return target.exists()
        temporary = kept / f".linking-{version}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            for file in source.iterdir():
                os.link(file, temporary / file.name)
            os.replace(temporary, target)
        except OSError as error:  # dropped by the learner while we were at it
            log.info("version %s could not be kept: %s", version, error)
            shutil.rmtree(temporary, ignore_errors=True)
            return False
        self._drop_old()
        return True

    def _drop_old(self) -> None:
        others = sorted(path for path in (self.folder / "kept").glob("[0-9]*") if path.name != self.anchor)
        for old in others[: max(0, len(others) - self.retained)]:
            shutil.rmtree(old, ignore_errors=True)

    def read_opinion(self) -> dict[str, Any]:
        """What an earlier life wrote down; {} = nothing, or nothing that can be read."""
        try:
            said: dict[str, Any] = json.loads((self.folder / "registry.json").read_text())
            return said
        except (OSError, ValueError):
            return {}

    def write_opinion(self, said: dict[str, Any]) -> None:
        temporary = self.folder / ".registry.json"
        try:
            temporary.write_text(json.dumps(said))
            os.replace(temporary, self.folder / "registry.json")
        except OSError as error:
            log.warning("what is thought of models was not written down: %s", error)


def described(path: Path) -> ModelInfo | None:
    """What a version says of itself, unchecked; None = it is gone again."""
    try:
        about = json.loads((path / "about.json").read_text())
        metrics = {name: float(value) for name, value in about["learning"].items()}
        counts = about["events"], about["updates"]
        return ModelInfo(path.name, about["made"], "standby", "", *counts, metrics, digest(path))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"damaged: {type(error).__name__}: {error}"
        return ModelInfo(path.name, time.time(), "rejected", reason, 0, 0, {}, "")
