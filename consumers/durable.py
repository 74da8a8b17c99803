"""A Kafka-protocol broker whose log survives it, for crash tests: it may be stopped, killed and started again.

It is noida-db, which keeps its log in a folder. It never evicts a dead member of a group, so groups are tested on the
embedded broker of `consumers.broker`, which keeps nothing but does that.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from consumers.broker import BrokerUnavailable, cluster_id

_LEASH = Path(__file__).with_name("leash.py")


class DurableBroker:
    """A broker on loopback with its log in `folder`, inside a `with` block.

    Attributes:
        address: host:port, the same after every restart.

    Raises:
        BrokerUnavailable: noida-db is not installed, or it does not start.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self._program = folder, _program()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self._port = int(probe.getsockname()[1])
        self.address = f"127.0.0.1:{self._port}"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.kill()

    def start(self, patience_s: float = 10.0) -> None:
        """Start it; returns when it answers. What an earlier life wrote is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [str(self._program), "start", "--only", "kafka", "--kafka-port", str(self._port)]
        command += ["--host", "127.0.0.1", "--data-dir", str(self.folder)]
        with (self.folder / "broker.log").open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_LEASH), *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        deadline = time.monotonic() + patience_s
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self._port), timeout=0.2).close()
                cluster_id(self.address)
                return
            time.sleep(0.01)
        self.kill()
        raise BrokerUnavailable(f"noida-db did not start on {self.address}; see {self.folder / 'broker.log'}")

    def freeze(self) -> None:
        """Stop it in its tracks: connections stay open and nobody answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL, as by a power cut; calling it twice is fine."""
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin is not None:
            process.stdin.close()

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            raise BrokerUnavailable("the broker does not run")
        os.killpg(self._process.pid, number)


def _program() -> Path:
    found = importlib.util.find_spec("noida_db")
    if found is None or not found.submodule_search_locations:
        raise BrokerUnavailable('the broker for crash tests is not installed: pip install "streamrec[dev]"')
    program = Path(found.submodule_search_locations[0]) / "noida-db"
    if not os.access(program, os.X_OK):
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return program
