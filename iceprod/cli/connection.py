"""Which site a command speaks to, as whom, and how it calls it."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

import click

from iceprod.errors import InputError, NotAuthenticated

if TYPE_CHECKING:
    from iceprod.rpc.client import SyncClient

R = TypeVar("R")

_PAGE: Final = 500


def settings_folder() -> Path:
    """Where ``iceprod login`` keeps the address (``url``) and the token (``token``, mode 0600)."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "iceprod"


def find_url(given: str | None) -> str:
    """The site's address, from the option, the environment or the last login.

    Raises InputError if nothing tells.
    """
    url = given or os.environ.get("ICEPROD_URL") or _read(settings_folder() / "url")
    if not url:
        raise InputError(
            "which site? Give --url, set ICEPROD_URL, or keep the address with: iceprod login --url URL"
        )
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url!r} is not an address: it has to begin with http:// or https://")
    return url.rstrip("/").removesuffix("/jsonrpc")


def find_token(given: Path | None, *, url: str) -> str | None:
    """The token, by file or environment only, so that it never stands in a list of processes.

    The token that was kept at login goes to no other site than the one it was kept for.
    """
    file = given or os.environ.get("ICEPROD_TOKEN_FILE")
    if file:
        token = _read(Path(file))
        if not token:
            raise NotAuthenticated(f"there is no token in {file}")
        return token
    if os.environ.get("ICEPROD_TOKEN"):
        return os.environ["ICEPROD_TOKEN"]
    folder = settings_folder()
    return _read(folder / "token") if _read(folder / "url") == url else None


def _read(path: Path) -> str | None:
    try:
        return path.expanduser().read_text(encoding="utf-8").strip() or None
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}") from None


class Site:
    """A site's methods, called one after another; use as a context manager.

    A server that is away is waited for a few seconds, with ``patient`` half a minute.
    """

    def __init__(self, url: str, token: str | None, *, patient: bool = False) -> None:
        self.url = url
        self.token = token or ""
        self._patient = patient
        self._client: SyncClient | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._client is not None:
            self._client.close()

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of ``method``; parameters that are None are left out.

        Raises the IceProdError that the site answered, or Unavailable.
        """
        if self._client is None:
            self._client = self._connected()
        return self._client.call(
            method, **{name: value for name, value in params.items() if value is not None}
        )

    def _connected(self) -> SyncClient:
        # The HTTP client costs a fifth of a second; help and completion do without it.
        from iceprod.rpc.client import RetryPolicy, SyncClient  # noqa: PLC0415

        return SyncClient(
            f"{self.url}/jsonrpc",
            token=self.token,
            ca_file=os.environ.get("ICEPROD_CA_FILE") or os.environ.get("SSL_CERT_FILE"),
            cert_file=os.environ.get("ICEPROD_CERT_FILE") or None,
            policy=RetryPolicy(attempts=8 if self._patient else 3),
        )

    def listed(self, method: str, *, limit: int, **params: Any) -> dict[str, Any]:
        """Up to ``limit`` items of a list method, fetched page by page, as one result of it."""
        items: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = self.call(method, limit=min(limit - len(items), _PAGE), cursor=cursor, **params)
            items += page["items"]
            cursor = page["next"]
            if cursor is None or len(items) >= limit:
                return {"items": items, "next": cursor}


def on_site(command: Callable[..., R]) -> Callable[..., R]:
    """Give a command the options that choose the site, and the `Site` as its first argument."""

    @click.option("--url", metavar="URL", help="The site's address.")
    @click.option(
        "--token-file",
        type=click.Path(path_type=Path, dir_okay=False),
        help="A file that holds your token.",
    )
    @functools.wraps(command)
    def run(*args: Any, url: str | None, token_file: Path | None, **kwargs: Any) -> R:
        address = find_url(url)
        with Site(address, find_token(token_file, url=address)) as site:
            return command(site, *args, **kwargs)

    return run
