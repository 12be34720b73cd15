"""A headless Chromium that tests drive through its remote debugging pipe."""

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--remote-debugging-pipe",
    *("--headless=new", "--no-sandbox", "--hide-scrollbars", "--mute-audio", "--no-first-run", "--disable-gpu-sandbox"),
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--force-color-profile=srgb"),
    "--disable-background-networking",
)


class Page:
    """A page in a headless browser."""

    def __init__(self, write: BinaryIO, read: BinaryIO) -> None:
        self._write, self._read = write, read
        self._number, self._buffer, self._session = 0, b"", None
        self.errors: list[str] = []  # exceptions and errors in the console
        self.urls: list[str] = []  # all that was requested
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                if "error" in answer:
                    msg = f"{method}: {answer['error']}"
                    raise RuntimeError(msg)
                return answer["result"]
            self._note(answer)

    def open(self, url: str, *, width: int = 1280, height: int = 900) -> None:
        """Open an address in a window of this size."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Page.navigate", url=url)

    def run(self, script: str) -> Any:
        """Return the value of an expression, or of the promise that it is."""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(json.dumps(answer["exceptionDetails"])[:2000])
        return answer["result"].get("value")

    def wait(self, condition: str, *, seconds: float = 60) -> Any:
        """Wait until an expression is true, and return it."""
        end = time.monotonic() + seconds
        while not (value := self._try(condition)):
            if time.monotonic() > end:
                msg = f"{condition} did not become true; errors: {self.errors}"
                raise TimeoutError(msg)
            time.sleep(0.05)
        return value

    def _try(self, condition: str) -> Any:
        try:
            return self.run(condition)
        except RuntimeError:  # the page is not there yet
            return None

    def click(self, selector: str) -> None:
        """Click on the middle of an element with the mouse."""
        self.run(f"document.querySelector({json.dumps(selector)}).scrollIntoView({{block: 'center'}})")
        box = self.run(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
        )
        self.mouse("mousePressed", *box)
        self.mouse("mouseReleased", *box)

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        """Send an event of the mouse at a point of the window."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1, **more)

    def press(self, key: str) -> None:
        """Press a key."""
        code = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40, " ": 32}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        how = {"key": key, "code": key, "windowsVirtualKeyCode": code.get(key, ord(key[0].upper()))}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **how)
        self.call("Input.dispatchKeyEvent", type="keyUp", **how)

    def picture(self, path: Path) -> None:
        """Save a picture of the window."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = os.read(self._read.fileno(), 1 << 16)
            if not part:
                msg = "the browser ended"
                raise RuntimeError(msg)
            self._buffer += part
        one, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(one)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(params["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and params["type"] == "error":
            self.errors.append(json.dumps(params["args"])[:500])
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.errors.append(json.dumps(params["entry"])[:500])
        elif method == "Network.requestWillBeSent":
            self.urls.append(params["request"]["url"])


@contextmanager
def browser(profile: Path) -> Iterator[Page]:
    """Start a headless browser with an empty profile, and end it after the block."""
    assert CHROMIUM is not None
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()
    # The browser reads from descriptor 3 and writes to 4.
    command = f'exec "$0" "$@" 3<&{from_us} 4>&{to_us}'
    process = subprocess.Popen(  # other shells than bash know descriptors of one digit alone
        ["bash", "-c", command, CHROMIUM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"],
        pass_fds=(from_us, to_us),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(from_us)
    os.close(to_us)
    try:
        with os.fdopen(to_browser, "wb") as write, os.fdopen(from_browser, "rb") as read:
            yield Page(write, read)
    finally:
        process.terminate()
        process.wait(timeout=20)
