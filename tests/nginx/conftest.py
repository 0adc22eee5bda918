"""nginx in front of a site, and in front of a server that notes what it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.nginx_harness import Authority, Front, Upstream, front_settings
from tests.servers import RunningSite

FILE_LIMIT = 40_000_000


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """Who signs the certificates of a module's tests."""
    return Authority(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSite]:
    """A site that believes the nginx in front of it."""
    settings = {
        "ICEPROD_SERVER__PROXIED": "true",
        "ICEPROD_FILES__MAX_BYTES": str(FILE_LIMIT),
        "ICEPROD_LOG__FORMAT": "json",
    }
    with RunningSite(tmp_path_factory.mktemp("site"), settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def front(site: RunningSite, authority: Authority) -> Iterator[Front]:
    """That site's nginx."""
    server = {"port": int(site.url.rpartition(":")[2]), "rpc_port": int(site.rpc_url.rpartition(":")[2])}
    settings = front_settings(site.folder, authority, server=server, files={"max_bytes": FILE_LIMIT})
    with Front(settings, authority, token=site.token) as running:
        yield running


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    """A server that notes what it is asked."""
    with Upstream() as running:
        yield running


@pytest.fixture(scope="module")
def echo(
    upstream: Upstream, authority: Authority, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    """nginx in front of that."""
    nginx = {"upstreams": (upstream.address,), "client_timeout_s": 1}
    limits: dict[str, Any] = {"server": {"max_form_bytes": 100_000}, "rpc": {"max_message_bytes": 50_000}}
    settings = front_settings(tmp_path_factory.mktemp("echo"), authority, nginx=nginx, **limits)
    with Front(settings, authority) as running:
        yield running


@pytest.fixture
def echo_with(upstream: Upstream, authority: Authority, tmp_path: Path) -> Iterator[Callable[..., Front]]:
    """Makes an nginx with settings of the test's own."""
    with ExitStack() as stack:

        def make(**nginx: Any) -> Front:
            given = {"upstreams": (upstream.address,), **nginx}
            settings = front_settings(tmp_path, authority, nginx=given)
            return stack.enter_context(Front(settings, authority))

        yield make
