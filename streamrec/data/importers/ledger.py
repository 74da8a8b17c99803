"""What became of the rows of the original: read, kept, or dropped for a cause. No row disappears without an entry."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Page:
    """The account of one file."""

    columns: list[str]
    """Columns of the original layout, in order."""

    read: int = 0
    parsed: int = 0
    """Rows of `read` that had the fields of the layout: what numbers the rows of a batch."""

    dropped: Counter[str] = field(default_factory=Counter)

    def parse(self, rows: int) -> None:
        """The rows of one more batch."""
        self.read += rows
        self.parsed += rows

    def drop(self, cause: str, rows: int) -> None:
        if rows:
            self.dropped[cause] += rows

    @property
    def kept(self) -> int:
        return self.read - self.dropped.total()

    def summary(self) -> dict[str, Any]:
        dropped = {cause: self.dropped[cause] for cause in sorted(self.dropped)}
        return {"columns": self.columns, "rows_read": self.read, "rows_kept": self.kept, "rows_dropped": dropped}


class Ledger:
    """The accounts of all files of one import, and what else a reader of the log must know."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.notes: list[str] = []

    def page(self, name: str, columns: Sequence[str]) -> Page:
        """The account of the file `name`, new or begun before."""
        return self.pages.setdefault(name, Page(list(columns)))

    def note(self, text: str) -> None:
        """Remember a sentence for the manifest, once."""
        if text not in self.notes:
            self.notes.append(text)

    def dropped(self) -> dict[str, int]:
        """Rows dropped in all files, by cause."""
        total: Counter[str] = Counter()
        for page in self.pages.values():
            total += page.dropped
        return dict(sorted(total.items()))
