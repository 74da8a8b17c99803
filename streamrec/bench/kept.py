"""What a benchmark has made so far, so that an interrupted one goes on where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Kept:
    """Figures by a key of what they were made from, one JSON object per line of a file.

    Args:
        path: the file; it need not exist. A last line that a kill cut off is taken away.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.made: dict[str, Any] = {}
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            path.write_text(whole)
        for line in whole.splitlines():
            entry = json.loads(line)
            self.made[entry["key"]] = entry["made"]

    def add(self, key: str, about: Mapping[str, Any], made: Any) -> None:
        """Keep what was `made`; `about` is for people who read the file."""
        self.made[key] = made
        with self.path.open("a") as file:
            file.write(json.dumps({"key": key, **about, "made": made}) + "\n")
