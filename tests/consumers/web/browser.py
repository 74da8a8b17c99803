"""Headless Chromium over its debugging pipe (Chrome DevTools Protocol), with nothing but the standard library."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from queue import Empty, Queue
from typing import Any

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)

OPTIONS = [
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--remote-debugging-pipe"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]

# Chromium reads commands from descriptor 3 and writes answers to 4; they may be taken until this runs.
_AT_3_AND_4 = """
import fcntl, os, sys
high = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 10) for number in sys.argv[1:3]]
for place, number in enumerate(high, 3):
    os.dup2(number, place)
    os.close(number)
os.execvp(sys.argv[3], sys.argv[3:])
"""

_KEYS = {
    "Tab": (9, ""),
    "Enter": (13, "\r"),
    "Escape": (27, ""),
    " ": (32, " "),
    "ArrowLeft": (37, ""),
    "ArrowRight": (39, ""),
    "ArrowDown": (40, ""),
    "End": (35, ""),
}


class Broken(AssertionError):
    """The page did not do what was waited for; the message has what it wrote to its console."""


class Browser:
    """One Chromium; runs inside a `with` block.

    Args:
        profile: an empty folder.
    """

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        command = [sys.executable, "-I", "-S", "-c", _AT_3_AND_4, str(to_read), str(to_write)]
        command += [CHROMIUM, *OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        self._process = subprocess.Popen(
            command, pass_fds=(to_read, to_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        os.close(to_read)
        os.close(to_write)
        self._answers: dict[int, Queue[dict[str, Any]]] = {}
        self._tabs: dict[str, Tab] = {}
        self._count = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(Broken, OSError):
            self.call("Browser.close")
        try:
            self._process.wait(5.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(5.0)
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """Send one command and return its result.

        Raises:
            Broken: Chromium refuses, or does not answer in 20 s.
        """
        self._count += 1
        number, answer = self._count, Queue[dict[str, Any]]()
        self._answers[number] = answer
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self._to, data) :]
        try:
            found = answer.get(timeout=20.0)
        except Empty:
            raise Broken(f"no answer to {method}") from None
        if "error" in found:
            raise Broken(f"{method}: {found['error']}")
        return dict(found["result"])

    def open(self, url: str, width: int = 1280, height: int = 900, **media: str) -> Tab:
        """A new tab with storage of its own. `media`: preferences, such as `color_scheme="dark"`."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        tab = Tab(self, session, target)
        self._tabs[session] = tab
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.size(width, height)
        if media:
            features = [{"name": f"prefers-{k.replace('_', '-')}", "value": v} for k, v in media.items()]
            tab.call("Emulation.setEmulatedMedia", features=features)
        tab.call("Page.navigate", url=url)
        return tab

    def _read(self) -> None:
        rest = b""
        while data := os.read(self._from, 1 << 16):
            *whole, rest = (rest + data).split(b"\0")
            for one in whole:
                self._take(json.loads(one))

    def _take(self, message: dict[str, Any]) -> None:
        if "id" in message:
            self._answers.pop(message["id"]).put(message)
        elif (tab := self._tabs.get(message.get("sessionId", ""))) is not None:
            tab.note(message["method"], message["params"])


class Tab:
    """One page and what it said on its console: errors, warnings, breaches of its policy, failed requests."""

    def __init__(self, browser: Browser, session: str, target: str) -> None:
        self._browser, self._session, self._target = browser, session, target
        self.console: list[str] = []

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)

    def note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.console.append(" ".join(str(a.get("value", a.get("description"))) for a in params["args"]))
        elif method == "Runtime.exceptionThrown":
            details = params["exceptionDetails"]
            self.console.append(str(details.get("exception", {}).get("description", details["text"])))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.console.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    def size(self, width: int, height: int) -> None:
        """Size of the window in CSS pixels; narrow ones are phones that are touched."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def js(self, code: str) -> Any:
        """Value of an expression; promises are awaited.

        Raises:
            Broken: it throws.
        """
        found = self.call("Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise Broken(found["exceptionDetails"].get("exception", {}).get("description", code))
        return found["result"].get("value")

    def wait(self, code: str, seconds: float = 15.0) -> Any:
        """The expression's value once it is true; an element is true.

        Raises:
            Broken: it never was.
        """
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            with contextlib.suppress(Broken):
                if found := self.js(f"((found) => (found instanceof Node ? true : found))({code})"):
                    return found
            time.sleep(0.04)
        text = self.js("document.body.innerText.slice(0, 1500)")
        raise Broken(f"never true: {code}\nconsole: {self.console}\npage: {text}")

    def text(self, selector: str) -> str:
        """The text one sees in the first element that matches, in one line."""
        found = self.js(f"document.querySelector({json.dumps(selector)})?.innerText ?? null")
        if found is None:
            raise Broken(f"no element {selector}")
        return " ".join(str(found).split())

    def click(self, selector: str) -> None:
        """Click with the pointer in the middle of the first element that matches."""
        self.wait(f"document.querySelector({json.dumps(selector)}) !== null")
        quoted = json.dumps(selector)
        x, y, hit = self.js(
            f"(() => {{ const e = document.querySelector({quoted}); e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(), x = r.x + r.width / 2, y = r.y + r.height / 2;"
            "const at = document.elementFromPoint(x, y); return [x, y, e === at || e.contains(at)]; })()"
        )
        if not hit:
            raise Broken(f"{selector} is covered by something else or out of sight")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name: str) -> None:
        code, text = _KEYS[name]
        shared = {"key": name, "code": name if name != " " else "Space", "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **shared)
        self.call("Input.dispatchKeyEvent", type="keyUp", **shared)

    def type(self, text: str) -> None:
        self.call("Input.insertText", text=text)

    def picture(self, file: Path, whole: bool = False) -> None:
        """A screenshot as PNG, of the window or of the whole page."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(found["data"]))
