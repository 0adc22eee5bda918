"""What the keeper knows of the pilot's sessions when the pilot is gone."""

import os

from iceprod.pilot import keeper
from iceprod.pilot.keeper import Sessions


def test_sessions_are_seen_by_the_other_process_until_they_are_over():
    sessions = Sessions()
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:  # the keeper is forked before any session begins
        os.close(writing)
        os.read(reading, 1)
        os._exit(sorted(sessions.read()) == [11, 13])
    os.close(reading)
    for session in (11, 12):
        sessions.add(session)
    sessions.discard(12)
    sessions.add(13)
    sessions.discard(14)
    os.close(writing)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_more_sessions_than_there_is_room_for_are_no_fault(monkeypatch):
    monkeypatch.setattr(keeper, "_MOST_SESSIONS", 2)
    sessions = Sessions()
    for session in (1, 2, 3):
        sessions.add(session)
    assert sessions.read() == {1, 2}
    sessions.discard(3)
    sessions.discard(1)
    sessions.add(4)
    assert sessions.read() == {2, 4}
