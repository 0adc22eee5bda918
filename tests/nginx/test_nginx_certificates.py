"""Who shows a certificate to nginx is known behind it."""

from __future__ import annotations

import json

import pytest

from tests.nginx_harness import Answer, Front, Identity, needs_nginx
from tests.servers import RunningSite

pytestmark = [pytest.mark.nginx, pytest.mark.e2e, needs_nginx]

OFFER = {"cpu": 1, "gpu": 0, "memory": 4, "disk": 10, "time": 10}
CA = "CN=IceProd Test CA,O=IceProd"


def called(front: Front, identity: Identity | None, method: str, **more) -> Answer:
    """A call that carries no token."""
    message = {"jsonrpc": "2.0", "id": 1, "method": method, "params": more.pop("params", {})}
    headers = {"Content-Type": "application/json", **more.pop("headers", {})}
    return front.ask(
        "/jsonrpc",
        method="POST",
        body=json.dumps(message).encode(),
        headers=headers,
        identity=identity,
        token="",
        **more,
    )


def slug(answer: Answer) -> str:
    assert answer.status == 200, answer
    return answer.json["error"]["data"]["code"] if "error" in answer.json else "done"


def test_a_user_is_known_by_certificate(front: Front, site: RunningSite) -> None:
    ada = front.authority.issue("ada")
    site.call("user.create", name="ada", password="correct horse battery")
    made = site.call("certificate.add", kind="user", name="ada", certificate=ada.certificate.read_text())

    known = called(front, ada, "certificate.list")
    page = front.ask("/account", identity=ada, token="")
    upload = front.ask("/files/site_temp/x", method="PUT", body=b"x", identity=ada, token="")
    site.call("certificate.revoke", certificate_id=made["certificate_id"])
    unknown = called(front, ada, "certificate.list")

    assert [item["subject"] for item in known.json["result"]["items"]] == ["CN=ada,O=IceProd"]
    assert page.status == 200
    assert b"ada" in page.body
    assert upload.status == 403  # known, and may not write there
    assert slug(unknown) == "not_authenticated"
    assert "CN=ada,O=IceProd" in unknown.json["error"]["message"]


def test_a_pilot_is_known_by_certificate(front: Front, site: RunningSite) -> None:
    made = site.call("pilot.credentials", grid="hand", resources=OFFER)
    names = {"subject": "/O=IceProd/CN=node-1", "issuer": "/O=IceProd/CN=IceProd Test CA"}
    site.call("certificate.add", kind="pilot", name=made["pilot_id"], **names)
    node = front.authority.issue("node-1")
    offer = {"hostname": "h", "version": "1", "offer": OFFER}

    registered = called(front, node, "pilot.register", params=offer)
    denied = called(front, node, "dataset.list")

    assert registered.json["result"]["pilot_id"] == made["pilot_id"]
    assert slug(denied) == "access_denied"


def test_nobody_is_believed_who_only_says_so(front: Front, site: RunningSite) -> None:
    site.call("certificate.add", kind="site", name="peer", subject="CN=peer,O=IceProd", issuer=CA)
    forged = {"X-SSL-Verify": "SUCCESS", "X-SSL-Subject-DN": "CN=peer,O=IceProd", "X-SSL-Issuer-DN": CA}
    stranger = front.authority.issue("stranger")

    without = called(front, None, "echo", params={"value": "e"}, headers=forged)
    with_another = called(front, stranger, "echo", params={"value": "e"}, headers=forged)
    itself = called(front, front.authority.issue("peer"), "echo", params={"value": "e"})

    assert slug(without) == slug(with_another) == "not_authenticated"
    assert "CN=stranger" in with_another.json["error"]["message"]
    assert itself.json["result"] == "e"
