"""What a data set says about itself and how its files become events."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import ClassVar

import pyarrow as pa

from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.source import Source


class DataSet(ABC):
    """A public data set in its original layout. Keywords of the constructor choose among what it offers."""

    title: ClassVar[str]
    homepage: ClassVar[str]
    """Name and address of the page that offers the data set. Nothing is ever downloaded."""

    licence: ClassVar[str]
    """What the publisher says about use, in a few words; the words of the publisher count."""

    files: ClassVar[str]
    """The files that are looked for, in a few words."""

    mapping: ClassVar[Mapping[str, str]]
    """Column of the event log, or what else is made -> from what of the original, with every departure."""

    @abstractmethod
    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        """Tables with the columns `user`, `item`, `kind`, `time` and any others of the event log.

        Rows come in any order of time. The impressions of a slate, and after them the reactions of the same moment,
        are next to each other and carry one time, so sorting by time keeps them together. Rows of the original that
        cannot be used are dropped in the ledger, with a cause.

        Raises:
            BadLog: files or columns that are not there.
        """

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        """Tables with `item`, `category` and further columns, each item once; called after `events` has ended."""
        return iter(())

    def users(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        """Tables with `user` and further columns, each user once; called after `items`."""
        return iter(())
