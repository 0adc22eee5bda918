"""Plots that the server draws, and the memory that they are drawn from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iceprod.model.file import Direction
from iceprod.server.plots import HEIGHT, WIDTH, nice_above, rate_plot
from iceprod.services.flow_history import KEPT, FlowHistory


@pytest.mark.parametrize(
    ("value", "top"),
    [(0, 1000), (1000, 1000), (1001, 2000), (2000.5, 5000), (7e6, 1e7), (1e7, 1e7), (3.2e9, 5e9)],
)
def test_a_scale_ends_at_a_round_number(value: float, top: float):
    assert nice_above(value) == top


@given(st.lists(st.tuples(st.floats(0, 4000), st.floats(0, 1e12)), max_size=50))
def test_every_point_lies_in_the_box(rates: list[tuple[float, float]]):
    plot = rate_plot("In", rates, span_s=3600)

    assert all(0 <= x <= WIDTH and -0.01 <= y <= HEIGHT for x, y in plot.points)
    assert len(plot.points) == sum(ago <= 3600 for ago, _ in rates)


def test_a_plot_says_in_words_what_it_shows():
    plot = rate_plot("To this site", [(10, 5e6), (5, 2e6)], span_s=60)

    assert plot.label.replace("\u202f", " ") == "To this site: 2 MB/s now, at most 5 MB/s in the last 1 min"
    assert plot.points == ((500.0, 0.0), (550.0, 54.0))
    assert plot.area == "500.0,90 500.0,0.0 550.0,54.0 550.0,90"


async def test_rates_are_the_differences_of_sums():
    sums, now = {Direction.IN: 0, Direction.OUT: 0}, [100.0]
    history = FlowHistory(lambda: sums, clock=lambda: now[0])

    for moved in (0, 50, 50, 200):
        sums[Direction.IN] = moved
        await history.sample()
        now[0] += 5

    assert history.rates(Direction.IN) == [(15.0, 10.0), (10.0, 0.0), (5.0, 30.0)]
    assert history.rates(Direction.OUT) == [(15.0, 0.0), (10.0, 0.0), (5.0, 0.0)]


async def test_only_an_hour_is_remembered():
    now = [0.0]
    history = FlowHistory(lambda: dict.fromkeys(Direction, 0), clock=lambda: now[0])

    for _ in range(KEPT + 10):
        now[0] += 5
        await history.sample()

    assert len(history.rates(Direction.IN)) == KEPT - 1
