"""The web server's log: each line counted once, whatever happens to the file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iceprod.model.file import Direction, Flow, Usage
from iceprod.services.accounting import Accounting, flow_text
from iceprod.services.sent_log import SentLog

FLOW = Flow("ana", Direction.OUT, "cache", origin="grid")


class Kept:
    """The store's documents and its usage."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {}
        self.added: list[Usage] = []

    async def get(self, name: str) -> str | None:
        return self.texts.get(name)

    async def put(self, name: str, text: str, *, fence: int = 0) -> bool:
        self.texts[name] = text
        return fence >= 0

    async def add(self, usage: Sequence[Usage]) -> None:
        self.added += usage


class Log:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.kept = Kept()
        self.accounting = Accounting(self.kept, clock=lambda: 0.0)  # type: ignore[arg-type]

    def write(self, *sizes: int, end: str = "\n") -> None:
        with self.path.open("a") as file:
            for size in sizes:
                entry = {"at": 86400.5, "account": flow_text(FLOW), "bytes": size, "status": 200}
                file.write(json.dumps(entry) + end)

    async def read(self, **more: Any) -> int:
        return await SentLog(self.path, self.kept, self.accounting).read(**more)  # type: ignore[arg-type]

    @property
    def counted(self) -> int:
        return self.accounting.bytes_moved[Direction.OUT]


async def test_each_line_is_counted_once_for_its_day(tmp_path: Path):
    log = Log(tmp_path / "sent.log")

    log.write(10, 20)
    counts = [await log.read(), await log.read()]
    log.write(5)
    counts.append(await log.read())
    await log.accounting.save()

    assert counts == [2, 0, 1]
    assert log.kept.added == [Usage("1970-01-02", FLOW, 35, 3)]


async def test_a_line_that_is_not_whole_waits_for_its_end(tmp_path: Path):
    log = Log(tmp_path / "sent.log")

    log.write(10, end="")
    counts = [await log.read()]
    with log.path.open("a") as file:
        file.write("\n")
    counts.append(await log.read())

    assert counts == [0, 1]


async def test_a_rotated_log_is_read_to_its_end_before_the_new_one(tmp_path: Path):
    log = Log(tmp_path / "sent.log")

    log.write(1)
    await log.read()
    log.write(2)
    log.path.rename(tmp_path / "sent.log.1")
    log.write(4)
    count = await log.read()

    assert (count, log.counted) == (2, 7)
    assert await log.read() == 0


async def test_a_log_that_was_cut_is_read_from_its_beginning(tmp_path: Path):
    log = Log(tmp_path / "sent.log")

    log.write(1, 1, 1)
    await log.read()
    log.path.write_text("")
    log.write(2)

    assert await log.read() == 1


@pytest.mark.expects_logs
async def test_what_is_no_entry_is_passed_over(tmp_path: Path):
    log = Log(tmp_path / "sent.log")

    log.path.write_bytes(b'\xff\xfe\n{"at": "x"}\n{"at": 1, "bytes": 1, "account": "user=x"}\n\n')
    log.write(3)

    assert await log.read() == 1
    assert log.counted == 3


async def test_there_is_nothing_to_read_without_a_log(tmp_path: Path):
    assert await Log(tmp_path / "absent.log").read() == 0


async def test_a_process_whose_duty_has_gone_counts_nothing(tmp_path: Path):
    log = Log(tmp_path / "sent.log")

    log.write(3)
    count = await log.read(fence=-1)  # the documents here take this for one that is too low

    assert (count, log.counted) == (0, 0)


ACTS = st.lists(st.one_of(st.integers(1, 10**6), st.sampled_from(["read", "rotate"])), max_size=30)


@given(ACTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
async def test_no_byte_is_counted_twice_or_not_at_all(tmp_path_factory, acts):
    log = Log(tmp_path_factory.mktemp("log") / "sent.log")
    written = rotations = 0
    for act in acts:
        if act == "read":
            await log.read()
        elif act == "rotate" and log.path.exists():
            await log.read()  # as often as logs are rotated, they were read since
            rotations += 1
            log.path.rename(log.path.with_name(f"sent.log.{rotations}"))
        elif isinstance(act, int):
            log.write(act)
            written += act
    await log.read()

    assert log.counted == written
