"""MovieLens: stars for films, in every layout GroupLens has used."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from streamrec.data.importers.dataset import DataSet
from streamrec.data.importers.fields import Fields
from streamrec.data.importers.ledger import Ledger
from streamrec.data.importers.source import Source
from streamrec.data.importers.text import Layout, batches

_RATINGS = {
    "u.data": Layout(("user", "item", "rating", "timestamp"), header=False, delimiter="\t"),
    "ratings.dat": Layout(("user", "item", "rating", "timestamp"), header=False, delimiter="::"),
    "ratings.csv": Layout(("userId", "movieId", "rating", "timestamp")),
    "*.inter": Layout(("user_id:token", "item_id:token", "rating:float", "timestamp:float"), delimiter="\t"),
}
"""File -> layout; the needed columns are user, item, stars and time in this order."""

_GENRES = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)
"""Order of the flags in u.item, as in u.genre."""

_ITEM = Layout(("id", "title", "released", "video", "url", *_GENRES), header=False, delimiter="|")
_FILMS = Layout(("movieId", "title", "genres"), quote='"')
_LINE = Layout(("line",), header=False, delimiter="\x1f")
_NO_GENRE = "(no genres listed)"


class MovieLens(DataSet):
    """Ratings with stars and times, and the titles and genres of the films."""

    title = "MovieLens"
    homepage = "GroupLens, https://grouplens.org/datasets/movielens/"
    licence = "GroupLens terms: research use, no redistribution without permission, acknowledge in publications"
    files = "u.data, u.item (100K); ratings.dat, movies.dat (1M, 10M); ratings.csv, movies.csv (newer); or *.inter"
    mapping: ClassVar[Mapping[str, str]] = {
        "user": "user",
        "item": "film",
        "kind": "rating",
        "time": "timestamp: when the stars were given, often many films in one sitting, not when the film was seen",
        "value": "stars, 0.5 to 5",
        "items.category": "genres between |; empty where none are listed",
        "left out": "tags, links, tag genome, splits that come with the data",
    }

    def events(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        pattern = next((pattern for pattern in _RATINGS if source.find(pattern)), None)
        if pattern is None:
            raise source.lacks(" or ".join(_RATINGS))
        layout = _RATINGS[pattern]
        of_user, of_item, stars, when = layout.needed
        for batch, page in batches(source, source.one(pattern), layout, ledger):
            fields = Fields(batch, page)
            user, item = fields.ids(of_user), fields.ids(of_item)
            value, time = fields.decimal(stars, low=0.5, high=5), fields.decimal(when, low=0)
            yield fields.table(user=user, item=item, kind="rating", time=time, value=value)

    def items(self, source: Source, ledger: Ledger) -> Iterator[pa.Table]:
        readers: dict[str, Callable[[Source, str, Ledger], Iterator[pa.Table]]] = {
            "u.item": _with_flags,
            "movies.dat": _of_lines,
            "movies.csv": _with_names,
        }
        for pattern, reader in readers.items():
            if source.find(pattern):
                yield from reader(source, source.one(pattern), ledger)
                return


def _with_flags(source: Source, name: str, ledger: Ledger) -> Iterator[pa.Table]:
    for batch, page in batches(source, name, _ITEM, ledger):
        fields = Fields(batch, page)
        said = [pc.if_else(pa.array(fields.matches(genre, "^1$")), f"{genre}|", "") for genre in _GENRES]
        genres = pc.utf8_rtrim(pc.binary_join_element_wise(*said, ""), "|")
        yield _film(fields, fields.ids("id"), fields.text("title"), genres)


def _of_lines(source: Source, name: str, ledger: Ledger) -> Iterator[pa.Table]:
    for batch, page in batches(source, name, _LINE, ledger):
        fields = Fields(batch, page)
        parts = pc.extract_regex(fields.text("line"), r"^(?P<id>[0-9]+)::(?P<title>.*)::(?P<genres>[^:]*)$")
        fields.require(pc.is_valid(parts).to_numpy(zero_copy_only=False), "no film, title and genres between ::")
        yield _film(fields, *(pc.struct_field(parts, part) for part in ("id", "title", "genres")))


def _with_names(source: Source, name: str, ledger: Ledger) -> Iterator[pa.Table]:
    for batch, page in batches(source, name, _FILMS, ledger):
        fields = Fields(batch, page)
        yield _film(fields, fields.ids("movieId"), fields.text("title"), fields.text("genres"))


def _film(fields: Fields, item: pa.Array, title: pa.Array, genres: pa.Array) -> pa.Table:
    none = pc.or_(pc.equal(genres, ""), pc.equal(genres, _NO_GENRE))
    return fields.table(item=item, category=pc.if_else(none, pa.scalar(None, pa.string()), genres), title=title)
