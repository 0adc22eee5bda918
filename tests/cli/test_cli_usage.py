"""``iceprod usage``: sums by what was asked for."""

from __future__ import annotations

import pytest

from iceprod.cli import output
from iceprod.cli.usage import add_up

RECORDS = [
    {
        "day": "2026-01-02",
        "user": "ana",
        "dataset_id": "d1",
        "direction": "in",
        "bytes_moved": 5,
        "transfers": 1,
    },
    {
        "day": "2026-01-02",
        "user": "ana",
        "dataset_id": "d2",
        "direction": "in",
        "bytes_moved": 7,
        "transfers": 2,
    },
    {
        "day": "2026-01-01",
        "user": "ben",
        "dataset_id": "d1",
        "direction": "out",
        "bytes_moved": 9,
        "transfers": 1,
    },
]


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        (("user",), [("ana", 12, 3), ("ben", 9, 1)]),
        (("dataset",), [("d1", 14, 2), ("d2", 7, 2)]),
        (("day", "direction"), [("2026-01-01", "out", 9, 1), ("2026-01-02", "in", 12, 3)]),
    ],
)
def test_records_are_added_up_by_what_was_asked_for(by: tuple[str, ...], expected: list[tuple]):
    rows = add_up(RECORDS, by)

    assert [tuple(row.values()) for row in rows] == expected


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1536, "1.54 kB"), (10**9, "1 GB"), (5.2e18, "5200 PB")],
)
def test_sizes_are_told_in_powers_of_ten(count: float, text: str):
    assert output.size(count) == text
