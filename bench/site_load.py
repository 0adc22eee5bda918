"""Children as they look to their parent: ``python -m bench.site_load URL TOKENS_FILE SECONDS``.

Each has two calls that wait, one for work and one for news, and renews its leases every twenty
seconds, as a site does that has nothing to do.  Prints a line when all of them wait.

With SECONDS other than 0 they take tasks for that long, report that these were begun and have
ended, and then print how many tasks that were.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

from bench.harness import pin
from iceprod.errors import IceProdError
from iceprod.rpc.client import Client

IDLE_SHAPE: Final = {"cpu": 1, "memory": 0.5, "disk": 10, "time": 10, "tasks": 8}
"""Room in which nothing fits that waits."""
BUSY_SHAPE: Final = {"cpu": 1, "memory": 8, "disk": 100, "time": 100, "tasks": 50}
WAIT_S: Final = 30.0
RENEW_S: Final = 20.0
PAUSE_S: Final = 1.0
"""Between two messages of a busy site."""
STATS: Final = {"hostname": "node1", "time_used": 12.5, "resources": {"memory": 1.1}}


class Child:
    """One site."""

    def __init__(self, url: str, token: str, is_over: Callable[[], bool]) -> None:
        self._client = Client(url, token=token)
        self._is_over = is_over
        self.tasks = 0

    async def _ask(self, method: str, **message: Any) -> Any:
        return await self._client.ask(method, {"message": message}, timeout_s=WAIT_S + 60)

    async def begin(self) -> None:
        """Greet, and have nothing to renew."""
        await self._ask("site.hello", protocols=[1], version="bench")
        await self._ask("site.renew", leases=[], is_all=True)

    async def idle(self) -> None:
        """Wait for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._for_ever(self._pull))
            group.create_task(self._for_ever(self._listen))
            group.create_task(self._for_ever(self._renew))

    async def busy(self) -> None:
        """Take tasks, and report them, until it is over."""
        while not self._is_over():
            started = time.perf_counter()
            pulled = await self._ask("site.pull", shapes=[BUSY_SHAPE], wait_s=1.0)
            lent = pulled["tasks"]
            if lent:
                said = [self._say(one, "started", {"hostname": "node1"}) for one in lent]
                said += [self._say(one, "finished", {"stats": STATS}) for one in lent]
                told = await self._ask("site.report", operations=said)
                assert all(outcome["result"] == "applied" for outcome in told["outcomes"])
                self.tasks += len(lent)
            await asyncio.sleep(max(0.0, started + PAUSE_S - time.perf_counter()))

    async def _for_ever(self, step: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await step()
            except IceProdError:
                return  # the parent has gone

    async def _pull(self) -> None:
        await self._ask("site.pull", shapes=[IDLE_SHAPE], wait_s=WAIT_S)

    async def _listen(self) -> None:
        await self._ask("site.listen", wait_s=WAIT_S)

    async def _renew(self) -> None:
        await asyncio.sleep(RENEW_S)
        await self._ask("site.renew", leases=[], is_all=True)

    @staticmethod
    def _say(lent: dict[str, Any], kind: str, body: dict[str, Any]) -> dict[str, Any]:
        task_id, lease_id = lent["task_id"], lent["lease_id"]
        return {
            "id": f"{lease_id}/{kind}",
            "kind": kind,
            "task_id": task_id,
            "lease_id": lease_id,
            "body": body,
        }


async def run(url: str, tokens: list[str], seconds: float) -> None:
    """Be all of them."""
    until = time.perf_counter() + seconds
    children = [Child(url, token, lambda: time.perf_counter() >= until) for token in tokens]
    for child in children:
        await child.begin()
    if seconds:
        await asyncio.gather(*(child.busy() for child in children))
        print(sum(child.tasks for child in children), flush=True)
        return
    waiting = [asyncio.create_task(child.idle()) for child in children]
    await asyncio.sleep(1.0)
    print("waiting", flush=True)
    await asyncio.gather(*waiting)


def main() -> None:
    pin(1)
    tokens = json.loads(Path(sys.argv[2]).read_text())
    asyncio.run(run(sys.argv[1], tokens, float(sys.argv[3])))


if __name__ == "__main__":
    main()
