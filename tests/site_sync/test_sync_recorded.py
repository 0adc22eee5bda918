"""What releases have said to each other is understood for as long as their protocol is spoken.

``tests/data/federation/protocol-N.json`` has what was recorded when version N was new; it is
never written anew.  What a release says that is one newer holds more than this one knows of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from iceprod.model.federation import OperationKind
from iceprod.model.principal import PrincipalKind
from iceprod.rpc.methods import build_registry
from iceprod.services.authorization import TABLE, Scope
from iceprod.site_sync.messages import PROTOCOLS

FOLDER = Path(__file__).parent.parent / "data" / "federation"
RECORDED = {
    int(path.stem.rpartition("-")[2]): json.loads(path.read_text(encoding="utf-8"))
    for path in FOLDER.glob("protocol-*.json")
}
EXCHANGES = [
    pytest.param(exchange, id=f"{version}-{number}-{exchange['method']}")
    for version, exchanges in sorted(RECORDED.items())
    for number, exchange in enumerate(exchanges)
]
REGISTRY = build_registry()
NEWER: dict[int, set[str]] = {1: {"site.reclaim"}, 2: set()}
"""What can't be said in a version, though it can in a later one."""


def request_of(exchange: dict[str, Any], message: Any) -> msgspec.Struct:
    entry = REGISTRY.get(exchange["method"])
    assert entry is not None
    return entry.bind(json.dumps({"message": message}).encode())["message"]


def answer_of(exchange: dict[str, Any], answer: Any) -> msgspec.Struct:
    entry = REGISTRY.get(exchange["method"])
    assert entry is not None
    return msgspec.convert(answer, entry.result)


def with_news(value: Any, *, at: str = "") -> Any:
    """The same as a newer release might say it: everything that is named has one thing more."""
    if isinstance(value, list):
        return [with_news(each) for each in value]
    if not isinstance(value, dict) or at in ("body", "config"):
        return value
    return {"news": {"of": ["tomorrow"]}, **{name: with_news(each, at=name) for name, each in value.items()}}


def said(value: Any) -> Iterator[tuple[str, Any]]:
    """Names with their plain values, wherever they stand."""
    if isinstance(value, list):
        for each in value:
            yield from said(each)
    elif isinstance(value, dict):
        for name, each in value.items():
            if isinstance(each, str | int | float):
                yield name, each
            yield from said(each)


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_what_was_recorded_is_understood(exchange: dict[str, Any]) -> None:
    sent = request_of(exchange, exchange["message"])
    answered = answer_of(exchange, exchange["answer"])

    # Nothing of it gets lost, but what is as good as not said.
    for kept, told in ((sent, exchange["message"]), (answered, exchange["answer"])):
        again = dict(said(json.loads(msgspec.json.encode(kept))))
        assert {name: value for name, value in said(told) if name not in again and value} == {}


@pytest.mark.parametrize("exchange", EXCHANGES)
def test_what_a_newer_release_adds_is_passed_over(exchange: dict[str, Any]) -> None:
    message, answer = with_news(exchange["message"]), with_news(exchange["answer"])

    assert request_of(exchange, message) == request_of(exchange, exchange["message"])
    assert answer_of(exchange, answer) == answer_of(exchange, exchange["answer"])


def test_every_version_that_is_spoken_was_recorded() -> None:
    assert set(RECORDED) == set(PROTOCOLS)


@pytest.mark.parametrize("version", PROTOCOLS)
def test_everything_that_can_be_said_was_recorded(version: int) -> None:
    methods = {exchange["method"] for exchange in RECORDED[version]}
    kinds = {
        told["kind"]
        for exchange in RECORDED[version]
        if exchange["method"] == "site.report"
        for told in exchange["message"]["operations"]
    }

    of_sites = {
        action
        for action, row in TABLE.items()
        if action.startswith("site.") and row[PrincipalKind.SITE] is Scope.OWN
    }
    assert methods == of_sites - NEWER[version]
    assert kinds == set(OperationKind) - {OperationKind.FILE}  # those are sent to the file store
