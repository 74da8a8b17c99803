"""Coat: stars of 290 people for coats they picked and for coats drawn at random (Schnabel et al., ICML 2016)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from streamrec.data.formats import BadLog
from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.ledger import Ledger, Page
from streamrec.data.importers.slates import numbered, with_reactions
from streamrec.data.importers.source import Source, unpacking
from streamrec.data.rules import MAX_SLOTS

_Matrix = NDArray[np.float64]


class Coat(DataSet):
    """First what people picked and rated (train), then what they were shown at random and rated (test)."""

    title = "Coat shopping"
    homepage = "Cornell, https://www.cs.cornell.edu/~schnabts/mnar/"
    licence = "none stated on its page; cite Schnabel et al., 2016"
    files = "train.ascii, test.ascii, propensities.ascii, user_item_features/*.ascii and *_map.txt"
    mapping: ClassVar[Mapping[str, str]] = {
        "user": "row of the matrices, from 0",
        "item": "column of the matrices, from 0",
        "kind": "train: rating without a slate; test: impression in the slate of the user, and a rating of it",
        "time": "not known: the number of the rating in train, then one for each user of test",
        "value": "stars, 1 to 5",
        "slate": "t and the user, test only",
        "slot": "order of the columns: the order in which the coats were drawn is not known, and each is as likely",
        "propensity": "train: propensities.ascii, the fitted probability that this user rates this coat (not of a "
        "policy); test: 1 / (coats - slot), since the coats were drawn at random without putting back",
        "items.category": "jackettype; also gender, color, onfrontpage",
        "users": "gender, age, location, fashioninterest",
    }

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        name = source.one("train.ascii")
        picked = _matrix(source, name)
        weights = [_matrix(source, found) for found in source.find("propensities.ascii")]
        for other in weights:
            _same_shape(source, other, picked)
        page = ledger.page(name, _columns(picked))
        yield _picked(picked, weights[0] if weights else np.full_like(picked, np.nan), page, ledger)
        for found in source.find("test.ascii"):
            drawn = _matrix(source, found)
            _same_shape(source, drawn, picked)
            yield _drawn(drawn, picked.size, ledger.page(found, _columns(drawn)))

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        table = _features(source, "item", ledger)
        if table is not None:
            names = table.schema.names
            kind = "jackettype" if "jackettype" in names else names[1]
            order = ["item", kind, *(name for name in names[1:] if name != kind)]
            yield table.select(order).rename_columns(["item", "category", *order[2:]])

    def users(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        table = _features(source, "user", ledger)
        if table is not None:
            yield table


def _columns(matrix: _Matrix) -> list[str]:
    return [f"{matrix.shape[0]} users x {matrix.shape[1]} items"]


def _matrix(source: Source, name: str) -> _Matrix:
    try:
        with unpacking(source.where(name)), source.open(name) as file, warnings.catch_warnings():
            warnings.simplefilter("error")  # loadtxt only warns of an empty file
            found: _Matrix = np.loadtxt(file, dtype=np.float64, ndmin=2)
    except (ValueError, UserWarning) as error:
        problem = f"expected a matrix of numbers between spaces, got: {str(error).splitlines()[0]}"
        raise BadLog(source.where(name), f"{problem}; check that this is the original file") from error
    return found


def _same_shape(source: Source, matrix: _Matrix, train: _Matrix) -> None:
    if matrix.shape != train.shape:
        problem = f"expected matrices as large as train.ascii, {train.shape[0]} x {train.shape[1]}"
        raise BadLog(source.path, f"{problem}, got {matrix.shape[0]} x {matrix.shape[1]}; take files of one release")


def _rated(matrix: _Matrix, page: Page) -> tuple[NDArray[np.int64], NDArray[np.int64], _Matrix]:
    """[n] users, [n] items, [n] stars of the cells that say something sensible; 0 = not rated."""
    user, item = np.nonzero(matrix != 0)
    stars = matrix[user, item]
    good = np.isin(stars, np.arange(1, 6))
    page.parse(len(stars))
    page.drop("stars: none of 1 to 5", int((~good).sum()))
    return user[good], item[good], stars[good]


def _picked(matrix: _Matrix, weights: _Matrix, page: Page, ledger: Ledger) -> pa.Table:
    user, item, stars = _rated(matrix, page)
    weight = weights[user, item]
    known = (weight > 0) & (weight <= 1)
    if not known.all():
        ledger.note(f"{int((~known).sum())} ratings of train have no propensity in (0, 1]: it is left empty")
    return pa.table(
        {
            "user": numbered("", user),
            "item": numbered("", item),
            "kind": pa.repeat("rating", len(user)),
            "time": np.arange(len(user), dtype=np.float64),
            "value": stars,
            "propensity": pa.array(weight, mask=~known),
        }
    )


def _drawn(matrix: _Matrix, begin: int, page: Page) -> pa.Table:
    user, item, stars = _rated(matrix, page)
    slot = np.arange(len(user)) - np.searchsorted(user, user)
    within = slot < MAX_SLOTS
    page.drop(f"more than {MAX_SLOTS} ratings of one user", int((~within).sum()))
    user, item, stars, slot = user[within], item[within], stars[within], slot[within]
    shown = pa.table(
        {
            "user": numbered("", user),
            "item": numbered("", item),
            "time": begin + user.astype(np.float64),
            "slate": numbered("t", user),
            "slot": slot,
            "value": stars,
            "propensity": 1 / (matrix.shape[1] - slot),
        }
    )
    events = with_reactions(shown, user, ("rating", np.ones(len(user), dtype=bool)))
    rating = pa.compute.equal(events["kind"], "rating")
    value = pa.compute.if_else(rating, events["value"], pa.scalar(None, pa.float64()))
    return events.set_column(events.schema.get_field_index("value"), "value", value)


def _features(source: Source, of: str, ledger: Ledger) -> pa.Table | None:
    """[users or items] one text column per name before the colon of the map; what several flags say is joined by |."""
    if not source.find(f"{of}_features.ascii") or not source.find(f"{of}_features_map.txt"):
        return None
    name = source.one(f"{of}_features.ascii")
    flags = _matrix(source, name)
    with source.open(source.one(f"{of}_features_map.txt")) as file:
        meanings = file.read().decode("utf-8", "replace").split("\n")
    meanings = [meaning.strip() for meaning in meanings if meaning.strip()]
    if flags.shape[1] != len(meanings):
        problem = f"expected {len(meanings)} columns as the map says, got {flags.shape[1]}; take files of one release"
        raise BadLog(source.where(name), problem)
    ledger.page(name, meanings).parse(len(flags))
    columns: dict[str, list[list[str]]] = {}
    for at, meaning in enumerate(meanings):
        group, _, value = meaning.partition(":")
        said = columns.setdefault(group, [[] for _ in range(len(flags))])
        for row in np.flatnonzero(flags[:, at]):
            said[row].append(value)
    texts = {group: pa.array(["|".join(values) or None for values in rows]) for group, rows in columns.items()}
    return pa.table({of: numbered("", np.arange(len(flags))), **texts})
