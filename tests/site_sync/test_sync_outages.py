"""An outage of a parent is told once, and once that it is over, however the link flaps meanwhile."""

from __future__ import annotations

import pytest
from site_harness import Time
from structlog.testing import capture_logs

from iceprod.site_sync.as_child.outages import CALM_S, Outages

pytestmark = pytest.mark.expects_logs


def test_a_link_that_flaps_is_told_of_once_and_when_that_is_over() -> None:
    clock = Time()
    outages = Outages(clock)
    with capture_logs() as told:
        for _ in range(5):
            outages.failed("north", "no answer")
            clock.advance(CALM_S / 2)
            outages.answered("north")
        assert [each["event"] for each in told] == ["a parent cannot be called"]
        clock.advance(CALM_S / 2)
        outages.answered("north")
        outages.answered("north")
    assert [each["event"] for each in told] == ["a parent cannot be called", "a parent answers again"]
    assert (told[1]["failures"], told[1]["for_s"]) == (5, 2 * CALM_S)


def test_the_next_outage_and_another_parent_are_told_of_again() -> None:
    clock = Time()
    outages = Outages(clock)
    with capture_logs() as told:
        outages.answered("north")
        outages.failed("north", "no answer")
        outages.failed("east", "no answer")
        clock.advance(CALM_S)
        outages.answered("north")
        outages.failed("north", "no answer")
    assert [(each["parent"], each["log_level"]) for each in told] == [
        ("north", "warning"),
        ("east", "warning"),
        ("north", "info"),
        ("north", "warning"),
    ]
