"""What a site must not do is refused, and stands in the audit trail: revoked, forged, replayed, another's."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from iceprod.errors import AccessDenied, IceProdError, NotAuthenticated, NotFoundError
from iceprod.rpc.client import SyncClient
from iceprod.site_sync.invitation import Invitation
from tests.nginx_harness import Authority, Front, Identity, needs_nginx
from tests.servers import RunningSite, run

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

TASK = {"name": "gen", "trays": [{"modules": [{"src": "/bin/true"}]}]}


@dataclass
class Member:
    """A site that has joined, with a certificate of its own."""

    front: Front
    name: str
    identity: Identity

    def call(self, method: str, message: dict[str, Any] | None = None) -> Any:
        """What the parent answers to it."""
        pem = self.identity.certificate.with_suffix(".both")
        pem.write_bytes(self.identity.certificate.read_bytes() + self.identity.key.read_bytes())
        pem.chmod(0o600)
        ca = str(self.front.authority.certificate)
        with SyncClient(f"{self.front.url}/jsonrpc", ca_file=ca, cert_file=str(pem)) as client:
            return client.call(method, message=message or {})

    def join(self, code: str) -> None:
        certificate = self.identity.certificate.read_text()
        self.call(
            "site.join", {"code": Invitation.read(code).secret, "protocols": [1], "certificate": certificate}
        )
        self.call("site.hello", {"protocols": [1]})

    def report(self, lent: dict[str, Any], kind: str) -> str:
        """Say something of a task; what becomes of it."""
        named = {"task_id": lent["task_id"], "lease_id": lent["lease_id"]}
        statement = {"id": f"{lent['lease_id']}/{kind}", "kind": kind, **named}
        found: str = self.call("site.report", {"operations": [statement]})["outcomes"][0]["result"]
        return found

    def file(self, method: str, lent: dict[str, Any], *, identity: Identity | None) -> int:
        """Store or read a file with the token of a task; the status of the answer."""
        dataset_id, job, _ = lent["task_id"].split("-")
        path = f"/files/job_temp/{dataset_id}/{job}/x"
        body = b"x" if method == "PUT" else None
        return self.front.ask(path, method=method, body=body, identity=identity, token=lent["token"]).status


@dataclass
class Trail:
    """What has come into the audit trail of a site since it was made, as its administrator sees it."""

    site: RunningSite
    since: float

    def has(self, action: str, takes: Callable[[dict[str, Any]], bool]) -> bool:
        """Whether one of the entries of an action is as it should be."""
        found = run("audit", "list", "--action", action, "--json", env=self.site.environment)
        assert found.code == 0, found.err
        entries = [entry for entry in json.loads(found.out)["items"] if entry["at"] >= self.since]
        return any(takes(entry) for entry in entries)

    def refused(self, who: str, action: str) -> bool:
        """Whether somebody was refused an action."""
        return self.has("site.refused", lambda e: (e["principal"], e["detail"]["action"]) == (who, action))


@pytest.fixture
def trail(site: RunningSite) -> Trail:
    return Trail(site, time.time() - 0.001)


@pytest.fixture
def members(front: Front, site: RunningSite, request: pytest.FixtureRequest) -> tuple[Member, Member]:
    """Two sites that work with this one."""
    made = []
    for side in "ab":
        name = f"{side}-{request.node.name.removeprefix('test_')[:40]}"
        member = Member(front, name, front.authority.issue(name))
        member.join(site.call("site.invite", name=name)["code"])
        made.append(member)
    return made[0], made[1]


def lend(site: RunningSite, member: Member) -> dict[str, Any]:
    """A task of a dataset that is for one site only, lent to it."""
    made = site.call("dataset.submit", config={"version": 3.1, "tasks": [TASK]}, njobs=1)
    site.call("dataset.sites", dataset_id=made["dataset_id"], only=[member.name])
    shape = {"cpu": 4, "memory": 16, "disk": 100, "time": 100, "tasks": 1}
    (lent,) = member.call("site.pull", {"shapes": [shape], "wait_s": 30})["tasks"]
    assert lent["dataset_id"] == made["dataset_id"]
    return dict(lent)


def test_what_is_another_sites(site: RunningSite, members: tuple[Member, Member], trail: Trail) -> None:
    mine, other = members
    lent = lend(site, other)

    assert mine.report(lent, "finished") == "refused"
    assert trail.has(
        "site.report", lambda e: e["target"] == mine.name and e["detail"]["leases_of_others"] == 1
    )
    assert mine.call("site.renew", {"leases": [[lent["task_id"], lent["lease_id"]]]})["lost"]
    assert trail.has(
        "site.renew", lambda e: e["target"] == mine.name and e["detail"]["leases_of_others"] == 1
    )
    with pytest.raises(NotFoundError):
        mine.call("site.dataset", {"dataset_id": lent["dataset_id"], "config_version": 1})
    assert trail.refused(mine.name, "site.dataset")
    assert other.file("PUT", lent, identity=other.identity) == 201
    for method, action in (("PUT", "upload.about"), ("GET", "file.read_shared")):
        assert mine.file(method, lent, identity=mine.identity) == 403
        assert trail.refused(mine.name, action)
        assert mine.file(method, lent, identity=None) == 403
    assert other.file("GET", lent, identity=other.identity) == 200
    assert other.report(lent, "finished") == "applied"


def test_a_token_for_files_ends_no_task(
    front: Front, site: RunningSite, members: tuple[Member, Member]
) -> None:
    _, other = members
    lent = lend(site, other)
    call = {"method": "pilot.finish", "params": {k: lent[k] for k in ("task_id", "lease_id")} | {"stats": {}}}

    answer = front.ask(
        "/jsonrpc",
        method="POST",
        body=json.dumps({"jsonrpc": "2.0", "id": 1, **call}).encode(),
        headers={"Content-Type": "application/json"},
        token=lent["token"],
    )

    assert answer.json["error"]["data"]["code"] == "not_found"
    assert other.report(lent, "finished") == "applied"


def test_what_was_said_before(
    front: Front, site: RunningSite, members: tuple[Member, Member], trail: Trail
) -> None:
    mine, _ = members
    lent = lend(site, mine)

    assert mine.report(lent, "returned") == "applied"
    assert mine.report(lent, "finished") == "lost"
    assert trail.has("site.report", lambda e: e["target"] == mine.name and e["detail"]["lost"] == 1)
    assert mine.file("GET", lent, identity=mine.identity) == 409
    assert trail.refused(mine.name, "file.read_shared")

    code = site.call("site.invite", name="once")["code"]
    Member(front, "once", front.authority.issue("once")).join(code)
    thief = Member(front, "thief", front.authority.issue("thief"))
    with pytest.raises(IceProdError, match="was used"):
        thief.join(code)
    assert trail.has("site.join", lambda e: "refused" in e["detail"])


def test_who_was_revoked_or_never_was(
    site: RunningSite, members: tuple[Member, Member], trail: Trail, tmp_path: Path
) -> None:
    mine, other = members
    lent = lend(site, mine)
    site.call("site.revoke", name=mine.name)

    for method in ("site.hello", "site.pull", "site.report"):
        with pytest.raises((NotAuthenticated, AccessDenied)):
            mine.call(method, {"protocols": [1], "shapes": [], "operations": []})
        assert trail.refused(f"CN={mine.name},O=IceProd", method)
    assert mine.file("GET", lent, identity=mine.identity) == 409

    forged = Member(other.front, other.name, Authority(tmp_path / "forged").issue(other.name))
    with pytest.raises(IceProdError):
        forged.call("site.hello", {"protocols": [1]})
    assert trail.has("certificate.refused", lambda e: e["target"] == f"CN={other.name},O=IceProd")
    assert other.call("site.hello", {"protocols": [1]})["site"]
