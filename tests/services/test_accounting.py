"""Whose bytes went where: added up, saved once, kept while the store is away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceprod.errors import InputError, StoreUnavailable
from iceprod.model.file import Direction, Flow, Usage
from iceprod.services.accounting import Accounting, flow_text, parse_flow

DAY = 86400.0
OUT = Flow("ana", Direction.OUT, "proxy", dataset_id="d1", origin="grid")


class Kept:
    """Where usage is added, away when told so."""

    def __init__(self) -> None:
        self.added: list[Usage] = []
        self.trouble: StoreUnavailable | None = None

    async def add(self, usage: Sequence[Usage]) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.added += usage


def accounting_of(kept: Any, *, now: float = 5 * DAY) -> Accounting:
    return Accounting(kept, clock=lambda: now)


async def test_bytes_of_one_flow_are_added_as_one():
    kept = Kept()
    accounting = accounting_of(kept)

    accounting.count(OUT, bytes_moved=10)
    accounting.count(OUT, bytes_moved=5, transfers=1)
    await accounting.save()
    await accounting.save()

    assert kept.added == [Usage("1970-01-06", OUT, 15, 1)]


async def test_bytes_of_another_day_are_another_row():
    kept = Kept()
    accounting = accounting_of(kept)

    accounting.count(OUT, bytes_moved=1, at=5 * DAY - 1)
    accounting.count(OUT, bytes_moved=2)
    await accounting.save()

    assert [(row.day, row.bytes_moved) for row in kept.added] == [("1970-01-05", 1), ("1970-01-06", 2)]


async def test_bytes_are_kept_while_the_store_is_away():
    kept = Kept()
    accounting = accounting_of(kept)

    kept.trouble = StoreUnavailable("away")
    accounting.count(OUT, bytes_moved=1, transfers=1)
    with pytest.raises(StoreUnavailable):
        await accounting.save()
    accounting.count(OUT, bytes_moved=2, transfers=1)
    kept.trouble = None
    await accounting.save()

    assert kept.added == [Usage("1970-01-06", OUT, 3, 2)]


async def test_bytes_are_not_added_twice_where_the_answer_got_lost():
    kept = Kept()
    accounting = accounting_of(kept)

    kept.trouble = StoreUnavailable("lost", outcome="unknown")
    accounting.count(OUT, bytes_moved=1)
    with pytest.raises(StoreUnavailable):
        await accounting.save()
    kept.trouble = None
    await accounting.save()

    assert kept.added == []


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@given(st.builds(Flow, TEXT, st.sampled_from(Direction), TEXT, TEXT, TEXT, TEXT, TEXT))
def test_a_flow_survives_its_line(flow: Flow):
    text = flow_text(flow)

    assert text.isascii()
    assert text.isprintable()
    assert parse_flow(text) == flow


@pytest.mark.parametrize("text", ["", "user=x", "user=x&direction=up&service=s", "direction=in", "a=b;c"])
def test_a_line_that_is_no_flow_is_refused(text: str):
    with pytest.raises(InputError):
        parse_flow(text)
