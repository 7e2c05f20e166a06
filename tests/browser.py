"""A headless Chromium, driven through a pair of pipes by its DevTools protocol; and where transformers.js is.

Source  https://chromedevtools.github.io/devtools-protocol/; with --remote-debugging-pipe messages end in a zero byte
"""

from __future__ import annotations

import base64
import functools
import http.server
import json
import os
import select
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

__all__ = ["BROWSER", "NODE", "NODE_MODULES", "Page", "needs_browser", "needs_node", "open_browser", "served"]

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
NODE = shutil.which("node") or ""
NODE_MODULES = Path(os.environ.get("EDGEPRUNE_NODE_MODULES", "node_modules")).absolute()
"""where `npm install @huggingface/transformers@4` was run"""
GPU = ("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader", "--enable-features=Vulkan")
"""WebGPU on the CPU, by SwiftShader"""

SILENCE_S = 600
"""after which a browser is taken to be stuck"""

_HAS_LIBRARY = (NODE_MODULES / "@huggingface/transformers/package.json").is_file()
_LIBRARY = f"no transformers.js in {NODE_MODULES}: npm install @huggingface/transformers@4 (EDGEPRUNE_NODE_MODULES)"
needs_node = pytest.mark.skipif(not (NODE and _HAS_LIBRARY), reason=_LIBRARY if NODE else "no node here")
needs_browser = pytest.mark.skipif(not (BROWSER and _HAS_LIBRARY), reason=_LIBRARY if BROWSER else "no Chromium here")


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None: ...


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """`python -m http.server` in a folder; its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()


class Page:
    """One tab."""

    def __init__(self, process: subprocess.Popen[bytes], write: int, read: int) -> None:
        self._process, self._write, self._read = process, write, read
        self._at, self._held, self._session = 0, b"", ""
        self.asked_for: list[str] = []
        """every address that it fetched, workers' as well"""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True)
        for domain in ("Page", "Runtime", "Network", "DOM"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **given: Any) -> Any:
        """A method of the protocol, and its result. Raises AssertionError when the browser refuses it."""
        sent = self._send(method, given, self._session)
        while (answer := self._receive()).get("id") != sent:
            pass
        assert "error" not in answer, f"{method}: {answer['error']}"
        return answer["result"]

    def _send(self, method: str, given: dict[str, Any], session: str) -> int:
        self._at += 1
        message = {"id": self._at, "method": method, "params": given, **({"sessionId": session} if session else {})}
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._at

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._held:
            ready, _, _ = select.select([self._read], [], [], SILENCE_S)
            if not ready:
                raise TimeoutError("the browser says nothing")
            self._held += os.read(self._read, 1 << 20)
        text, _, self._held = self._held.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        given = message.get("params", {})
        if message.get("method") == "Network.requestWillBeSent":
            self.asked_for.append(given["request"]["url"])
        elif message.get("method") == "Target.attachedToTarget" and self._session:  # a worker: it waits to be watched
            self._send("Network.enable", {}, given["sessionId"])
            self._send("Runtime.runIfWaitingForDebugger", {}, given["sessionId"])
        return message

    def window(self, width: int, height: int, scheme: str = "light") -> None:
        """scheme: light or dark"""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)

    def value(self, expression: str) -> Any:
        """What JavaScript says, awaited."""
        given = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in given, given["exceptionDetails"]
        return given["result"].get("value")

    def until(self, expression: str) -> Any:
        """What it says as soon as that is true."""
        end = time.monotonic() + SILENCE_S
        while time.monotonic() < end:
            try:
                if said := self.value(f"new Promise((say) => setTimeout(() => say({expression}), 20))"):
                    return said
            except AssertionError:  # a page that was just left takes its promises along
                continue
        raise TimeoutError(f"not true in {SILENCE_S} s: {expression}")

    def choose(self, selector: str, file: Path) -> None:
        """Give a file to an <input type=file>."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    def shot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


class open_browser:
    """A tab of a browser of its own, with a profile that is thrown away."""

    def __init__(self, gpu: bool = False) -> None:
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        there, self._write = os.pipe()
        self._read, back = os.pipe()
        command = [BROWSER, "--headless", "--no-sandbox", "--no-first-run", f"--user-data-dir={self._profile.name}"]
        command += [*(GPU if gpu else ("--disable-gpu",)), "--remote-debugging-pipe", "about:blank"]

        def ends() -> None:  # it reads 3 and writes 4
            os.dup2(there, 3)
            os.dup2(back, 4)

        quiet, kept = subprocess.DEVNULL, (3, 4, there, back)
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet, pass_fds=kept, preexec_fn=ends)
        os.close(there)
        os.close(back)

    def __enter__(self) -> Page:
        return Page(self._process, self._write, self._read)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()
