"""The authorization table: complete, consistent, and enforced as it reads."""

from __future__ import annotations

import pytest

from iceprod.errors import AccessDenied, NotAuthenticated, NotFoundError
from iceprod.model.principal import ANONYMOUS, Principal, PrincipalKind
from iceprod.services import authorization
from iceprod.services.authorization import LEGACY_ACTIONS, TABLE, Scope

ALICE = Principal(PrincipalKind.USER, "alice", frozenset({"users"}))
ADMIN = Principal(PrincipalKind.ADMIN, "root", frozenset({"users"}))
PILOT = Principal(PrincipalKind.PILOT, "p1")
TASK = Principal(PrincipalKind.TASK, "D-7-2", lease_id="l1")
SITE = Principal(PrincipalKind.SITE, "s1")
EVERYBODY = (ANONYMOUS, ALICE, ADMIN, PILOT, TASK, SITE)


@pytest.mark.parametrize("action", sorted({*TABLE, *LEGACY_ACTIONS}))
def test_check_agrees_with_the_table_for_every_kind_of_caller(action):
    row = TABLE[authorization.action_of(action)]

    for principal in EVERYBODY:
        if row[principal.kind] is not Scope.NONE:
            assert authorization.check(principal, action) is row[principal.kind]
        else:
            expected = NotAuthenticated if principal is ANONYMOUS else AccessDenied
            with pytest.raises(expected):
                authorization.check(principal, action)


def test_an_unknown_action_is_allowed_to_nobody():
    for principal in EVERYBODY:
        with pytest.raises((AccessDenied, NotAuthenticated)):
            authorization.check(principal, "dataset.burn")


def test_no_anonymous_caller_changes_anything():
    allowed = {action for action, row in TABLE.items() if row[PrincipalKind.ANONYMOUS] is not Scope.NONE}

    # What is sent to a one-time path is let in by the secret in the path, a site by its code; and
    # that somebody was refused, nginx tells as nobody.
    assert allowed - {"upload.send", "upload.about", "site.join", "certificate.refused"} == {
        "rpc.discover",
        "site.authority",
        "report.read",
        "site.health",
        "site.metrics",
        "session.begin",
    }


def test_every_legacy_name_leads_to_an_action_of_the_table():
    assert set(LEGACY_ACTIONS.values()) <= set(TABLE)


@pytest.mark.parametrize(
    ("principal", "action", "target", "error"),
    [
        (ALICE, "dataset.suspend", {"owner": "alice"}, None),
        (ALICE, "dataset.suspend", {"owner": "bob", "public": True}, AccessDenied),
        (ALICE, "dataset.suspend", {"owner": "bob", "group": "users"}, AccessDenied),
        (ALICE, "dataset.suspend", {"owner": "bob", "group": "other"}, NotFoundError),
        (ALICE, "dataset.get", {"owner": "bob", "public": True}, None),
        (ALICE, "dataset.get", {"owner": "bob", "group": "users"}, None),
        (ALICE, "dataset.get", {"owner": "bob", "group": "other"}, NotFoundError),
        (ADMIN, "dataset.hard_reset", {"owner": "bob", "group": "other"}, None),
        (PILOT, "pilot.finish", {"pilot_id": "p1", "task_id": "D-1-1"}, None),
        (PILOT, "pilot.finish", {"pilot_id": "p2", "task_id": "D-1-1"}, NotFoundError),
        (TASK, "pilot.finish", {"pilot_id": "p2", "task_id": "D-7-2"}, None),
        (TASK, "pilot.finish", {"pilot_id": "p2", "task_id": "D-7-1"}, NotFoundError),
        (TASK, "dataset.get", {"owner": "alice"}, AccessDenied),
        (ANONYMOUS, "dataset.get", {"owner": "", "public": True}, NotAuthenticated),
        # An owner named like nobody is not everybody's.
        (PILOT, "pilot.get", {"pilot_id": ""}, NotFoundError),
    ],
)
def test_check_object_reaches_as_far_as_the_scope(principal, action, target, error):
    if error is None:
        authorization.check_object(principal, action, identifier="X", **target)
    else:
        with pytest.raises(error):
            authorization.check_object(principal, action, identifier="X", **target)


def test_hidden_and_absent_read_the_same():
    with pytest.raises(NotFoundError) as hidden:
        authorization.check_object(ALICE, "dataset.get", identifier="D1", owner="bob", group="other")

    assert str(hidden.value) == str(NotFoundError("dataset", "D1"))


@pytest.mark.parametrize(
    ("principal", "action", "job_index", "allowed"),
    [
        (TASK, "file.write", 7, True),
        (TASK, "file.write", None, True),
        (TASK, "file.write", 8, False),
        (ALICE, "file.read", 8, True),
        (Principal(PrincipalKind.USER, "bob"), "file.read", 8, False),
        (ADMIN, "file.delete", 8, True),
    ],
)
def test_file_areas_are_reached_by_their_own(principal, action, job_index, allowed):
    call = {"dataset_id": "D", "job_index": job_index, "owner": "alice"}
    if allowed:
        authorization.check_area(principal, action, **call)
    else:
        with pytest.raises(NotFoundError):
            authorization.check_area(principal, action, **call)


def test_a_task_of_another_dataset_reaches_nothing():
    with pytest.raises(NotFoundError):
        authorization.check_area(TASK, "file.read", dataset_id="E", job_index=7, owner="alice")


def test_lists_are_narrowed_for_users_and_whole_for_admins():
    assert authorization.visible_to(ALICE) == ("alice", frozenset({"users"}))
    assert authorization.visible_to(ADMIN) is None
    with pytest.raises(AccessDenied):
        authorization.visible_to(PILOT)
