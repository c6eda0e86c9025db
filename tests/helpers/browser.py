"""Chromium without a window, spoken to through its debugging pipe: for pages that are looked at."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name)) and sys.platform != "win32"
    ),
    None,
)
_PATIENCE_S = 60


class Browser:
    """One page of a fresh browser. requests: what was asked of anyone; said: console and errors.

    with Browser() as browser:
        browser.open(file)
        browser.run("document.title")
    """

    def __enter__(self) -> Browser:
        self.requests, self.said = list[str](), list[str]()
        self._number, self._rest = 0, b""
        # Of this process are the ends 0 and 1; the browser reads from its 3 and writes to its 4.
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)

        def place() -> None:
            moved = os.dup(to_read), os.dup(to_write)
            os.dup2(moved[0], 3)
            os.dup2(moved[1], 4)

        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            [
                CHROMIUM,
                "--headless=new",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--no-first-run",
                "--remote-debugging-pipe",
                f"--user-data-dir={self._home.name}",
                "about:blank",
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=place,
            close_fds=False,
        )
        os.close(to_read)
        os.close(to_write)
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        attached = self._ask("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(_PATIENCE_S)
        os.close(self._to)
        os.close(self._from)
        self._home.cleanup()

    def size(self, width: int, height: int = 900, *, dark: bool = False) -> None:
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, file: Path, *, scripts: bool = True) -> None:
        self._ask("Emulation.setScriptExecutionDisabled", value=not scripts)
        self._ask("Page.navigate", url=file.as_uri())
        self._until("Page.loadEventFired")

    def run(self, code: str) -> Any:
        """What an expression of the page gives. Raises AssertionError where it throws."""
        found = self._ask(
            "Runtime.evaluate", expression=code, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def click(self, code: str) -> None:
        """Click in the middle of an element, as a mouse does."""
        self.run(f"({code}).scrollIntoView({{block: 'center'}})")
        x, y = self.run(
            f"(() => {{const r = ({code}).getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2]})()"
        )
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def mouse(self, what: str, x: float, y: float) -> None:
        press = {} if what == "mouseMoved" else {"button": "left", "clickCount": 1}
        self._ask("Input.dispatchMouseEvent", type=what, x=x, y=y, **press)

    def key(self, name: str, code: int, text: str | None = None) -> None:
        down = {"text": text} if text else {}
        for kind in ("keyDown", "keyUp"):
            self._ask(
                "Input.dispatchKeyEvent",
                type=kind,
                key=name,
                windowsVirtualKeyCode=code,
                **(down if kind == "keyDown" else {}),
            )

    def screenshot(self, file: Path, *, whole: bool = True) -> None:
        taken = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        file.write_bytes(base64.b64decode(taken["data"]))

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        number = self._number
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != number:
            pass
        assert "error" not in answer, (method, answer["error"])
        result: dict[str, Any] = answer["result"]
        return result

    def _until(self, method: str) -> None:
        while self._next().get("method") != method:
            pass

    def _next(self) -> dict[str, Any]:
        patient = time.monotonic() + _PATIENCE_S
        while b"\0" not in self._rest:
            assert time.monotonic() < patient, "the browser says nothing"
            got = os.read(self._from, 1 << 20)
            assert got, "the browser has gone"
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message)
        return message

    def _note(self, message: dict[str, Any]) -> None:
        about = message.get("params", {})
        match message.get("method"):
            case "Network.requestWillBeSent":
                self.requests.append(about["request"]["url"])
            case "Runtime.consoleAPICalled":
                self.said.append(str(about["args"]))
            case "Runtime.exceptionThrown":
                self.said.append(str(about["exceptionDetails"]))
            case "Log.entryAdded":
                self.said.append(str(about["entry"]))
