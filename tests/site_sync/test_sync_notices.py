"""What has changed lately, for readers at their own pace."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from iceprod.services.events import Event, EventKind
from iceprod.site_sync.as_parent.notices import Notices

SUBJECTS = "abcdefgh"


def event(subject: str) -> Event:
    return Event(EventKind.DATASET_CHANGED, subject)


steps = st.lists(
    st.tuples(st.just("note"), st.sampled_from(SUBJECTS)) | st.tuples(st.just("take"), st.sampled_from("xy"))
)


@given(steps, st.integers(2, 10))
def test_nobody_misses_anything(steps: list[tuple[str, str]], most: int):
    notices = Notices(most=most)
    unread: dict[str, set[str] | None] = {"x": None, "y": None}
    for step, name in steps:
        if step == "note":
            notices.note(event(name))
            for missed in unread.values():
                if missed is not None:
                    missed.add(name)
            continue
        expected, found = unread[name], notices.take(name)
        if found is not None:
            assert expected is not None
            assert {one.subject for one in found} == expected
            assert len(found) == len(expected)
        else:
            assert expected is None or len(SUBJECTS) > most
        unread[name] = set()


def test_what_did_not_arrive_is_a_reason_to_look_at_everything():
    notices = Notices()
    assert notices.take("x") is None
    assert notices.take("x") == []
    notices.put_back("x")
    assert notices.take("x") is None


async def test_who_watches_is_woken():
    notices = Notices()
    with notices.watch() as flag:
        notices.note(event("a"))
        async with asyncio.timeout(5):
            await flag.wait()
    notices.note(event("b"))
    assert not notices._watchers
