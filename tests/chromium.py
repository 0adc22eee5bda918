"""A headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tornado.websocket import WebSocketClientConnection, websocket_connect

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)
_START_S = 60.0
_WAIT_S = 60.0


class Tab:
    """One page of the browser."""

    def __init__(self, connection: WebSocketClientConnection, session: str) -> None:
        self._connection = connection
        self._session = session
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []

    async def command(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol; events that come meanwhile are looked at."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        await self._connection.write_message(json.dumps(message))
        while True:
            answer = json.loads(await self._connection.read_message() or "null")
            assert answer is not None, "the browser has gone"
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        """Keep what a developer would see in red."""
        params = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        if event.get("method") == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(params["entry"]["text"])

    async def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = await self.command(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    async def until(self, script: str) -> Any:
        """The value of an expression once it is true."""
        async with asyncio.timeout(_WAIT_S):
            while not (value := await self.run(script)):
                await asyncio.sleep(0.05)
            return value

    async def open(self, address: str) -> None:
        """Go to a page, which then is complete."""
        await self.command("Page.navigate", url=address)
        await self.until(f"document.readyState === 'complete' && location.href.startsWith({address!r})")

    async def pick(self, selector: str, *files: Path) -> None:
        """Choose ``files`` in an input, as a person does in the window that it opens."""
        document = await self.command("DOM.getDocument")
        found = await self.command("DOM.querySelector", nodeId=document["root"]["nodeId"], selector=selector)
        await self.command(
            "DOM.setFileInputFiles", nodeId=found["nodeId"], files=[str(file) for file in files]
        )

    async def network(self, *, is_there: bool = True, bytes_per_s: int = -1) -> None:
        """Have the way to servers be slow (-1: as it is), or gone."""
        await self.command(
            "Network.emulateNetworkConditions",
            offline=not is_there,
            latency=0,
            downloadThroughput=-1,
            uploadThroughput=bytes_per_s,
        )

    async def picture(self, *, width: int, height: int, scale: float = 1.0, dark: bool = False) -> bytes:
        """What can be seen, as PNG."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.command("Emulation.setEmulatedMedia", features=[scheme])
        await self.command(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=False,
        )
        shot = await self.command("Page.captureScreenshot", format="png")
        return base64.b64decode(shot["data"])


@asynccontextmanager
async def chromium(folder: Path) -> AsyncIterator[Tab]:
    """A browser with an empty profile in ``folder``, and a tab of it."""
    assert PROGRAM is not None
    profile = folder / "profile"
    command = [PROGRAM, *_FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: ASYNC220
    try:
        port, path = (await _ready(profile / "DevToolsActivePort")).split("\n")[:2]
        connection = await websocket_connect(f"ws://127.0.0.1:{port}{path}", max_message_size=64 * 1024**2)
        browser = Tab(connection, "")
        target = await browser.command("Target.createTarget", url="about:blank")
        session = await browser.command("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        tab = Tab(connection, session["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            await tab.command(f"{domain}.enable")
        try:
            yield tab
        finally:
            connection.close()
            while await connection.read_message() is not None:  # until the socket is closed
                pass
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 20)


async def _ready(file: Path) -> str:
    """The file in which the browser writes its address."""
    async with asyncio.timeout(_START_S):
        while not (file.exists() and file.read_text().count("\n")):  # noqa: ASYNC240
            await asyncio.sleep(0.05)
    return file.read_text()  # noqa: ASYNC240
