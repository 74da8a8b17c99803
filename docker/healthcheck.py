"""Exit code 0 if the service in this container is ready, 1 if it is not; says why. Needs nothing but Python.

python healthcheck.py [PORT]
"""

from __future__ import annotations

import http.client
import sys

PORT = 8700


def check(port: int = PORT, timeout_s: float = 4.0) -> tuple[bool, str]:
    """Ask `/readyz` on this machine, past any proxy of the environment. Returns whether it is ready, and its answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        return answer.status == 200, answer.read(4096).decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return False, f"nobody answers on port {port}: {error}"
    finally:
        connection.close()


if __name__ == "__main__":
    ready, says = check(*map(int, sys.argv[1:2]))
    print(says)
    sys.exit(0 if ready else 1)
