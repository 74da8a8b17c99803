"""The files of a data set as they were downloaded: a folder, one file, a zip or a tar archive; .gz is unpacked."""

from __future__ import annotations

import bz2
import gzip
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import pyarrow as pa

from streamrec.data.formats import BadLog

_TARS = (".tar", ".tar.gz", ".tgz", ".tar.bz2")
_ELSEWHERE = (".7z", ".rar")
_SHOWN = 12
"""Names in a message about files that are not there."""

_BROKEN = (pa.ArrowException, EOFError, OSError, zlib.error, zipfile.BadZipFile, tarfile.TarError, RuntimeError)
"""What libraries raise about damaged, packed or locked files; a zip that needs a password is a RuntimeError."""


@contextmanager
def unpacking(path: Path) -> Iterator[None]:
    """Turn what libraries raise about broken files into `BadLog`."""
    try:
        yield
    except _BROKEN as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadLog(path, f"expected a file that can be read, got: {reason}; download it again") from error


class Source:
    """Files by name, wherever they are.

    Args:
        path: a folder (searched with its subfolders), a file, a .zip, or a .tar, .tar.gz, .tgz or .tar.bz2. Members of
            a packed tar are found by unpacking what stands before them: unpack large ones once instead.

    Raises:
        BadLog: nothing there, an archive that is damaged or of a kind that is not read here.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).expanduser()
        self._archive: zipfile.ZipFile | tarfile.TarFile | None = None
        if not self.path.exists():
            raise BadLog(self.path, "expected the files of a data set here, found nothing; check the path")
        if self.path.name.endswith(_ELSEWHERE):
            raise BadLog(self.path, "expected a folder, a file, .zip or .tar, got another archive; unpack it first")
        with unpacking(self.path):
            self.names = sorted(self._names())

    def _names(self) -> list[str]:
        if self.path.is_dir():
            found = (file for file in self.path.rglob("*") if file.is_file())
            return [file.relative_to(self.path).as_posix() for file in found]
        if zipfile.is_zipfile(self.path):
            self._archive = zipfile.ZipFile(self.path)
            return [member.filename for member in self._archive.infolist() if not member.is_dir()]
        if self.path.name.endswith(_TARS):
            self._archive = tarfile.TarFile.open(self.path)
            return [member.name for member in self._archive.getmembers() if member.isfile()]
        return [self.path.name]

    def find(self, *patterns: str) -> list[str]:
        """Names of the files that match one of `patterns` (as in a shell, lower case), whatever their folder; sorted.

        The suffix .gz does not count, nor what archives of other systems add (`__MACOSX`, names with a dot in front).
        """
        return [name for name in self.names if _visible(name) and any(fnmatchcase(_plain(name), p) for p in patterns)]

    def one(self, *patterns: str) -> str:
        """The one file that matches.

        Raises:
            BadLog: there is none, or more than one.
        """
        found = self.find(*patterns)
        if len(found) == 1:
            return found[0]
        wanted = " or ".join(patterns)
        if found:
            raise BadLog(self.path, f"expected one file {wanted}, found {_some(found)}; name the folder of one of them")
        raise self.lacks(wanted)

    def lacks(self, wanted: str) -> BadLog:
        """The error for files that are not there."""
        return BadLog(self.path, f"expected {wanted}, found {_some(self.names)}; check the path and the name")

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """The bytes of a file, unpacked."""
        with self._open(name) as raw:
            if name.endswith(".gz"):
                with gzip.GzipFile(fileobj=raw, mode="rb") as file:
                    yield cast(IO[bytes], file)
            elif name.endswith(".bz2"):
                with bz2.BZ2File(raw, "rb") as file:
                    yield cast(IO[bytes], file)
            else:
                yield raw

    def _open(self, name: str) -> IO[bytes]:
        if isinstance(self._archive, zipfile.ZipFile):
            return self._archive.open(name)
        if self._archive is not None:
            member = self._archive.extractfile(name)
            assert member is not None, f"{name} was listed as a file"
            return member
        return self.where(name).open("rb")

    def where(self, name: str) -> Path:
        """The path to name in messages."""
        return self.path if self.path.name == name and not self.path.is_dir() else self.path / name

    def on_disk(self, name: str) -> Path | None:
        """The file itself where it needs no unpacking."""
        packed = self._archive is not None or name.endswith((".gz", ".bz2"))
        return None if packed else self.where(name)

    def close(self) -> None:
        if self._archive is not None:
            self._archive.close()

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _plain(name: str) -> str:
    return PurePosixPath(name).name.lower().removesuffix(".gz").removesuffix(".bz2")


def _visible(name: str) -> bool:
    return not any(part.startswith((".", "__MACOSX")) for part in PurePosixPath(name).parts)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return (", ".join(map(repr, names[:_SHOWN])) or "no file") + more
