"""The dependencies of a pyproject.toml, one a line: what an image installs before it has the sources.

python dependencies.py pyproject.toml [EXTRA[,EXTRA...]]
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def dependencies(path: Path, extras: str = "") -> list[str]:
    """Requirements of the project at `path` with those of `extras` (names with commas).

    Raises:
        KeyError: the project has no such extra.
    """
    project = tomllib.loads(path.read_text())["project"]
    found = list(project["dependencies"])
    for extra in filter(None, extras.split(",")):
        found += project["optional-dependencies"][extra]
    return found


if __name__ == "__main__":
    print("\n".join(dependencies(Path(sys.argv[1]), *sys.argv[2:3])))
