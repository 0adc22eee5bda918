"""The head of one HTTP request on the fast lane, and every reason to refuse it.

Sources: RFC 9110 and RFC 9112.  httptools (llhttp) splits the bytes; what is said here is
what this server accepts beyond that grammar.  Anything by which two servers in a row could
disagree on where a request ends is refused (RFC 9112, 6.3 and 11.2), and a refusal always
ends the connection, so that nothing behind it is ever read as a request.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from ipaddress import ip_address
from typing import Final

_PATH: Final = b"/jsonrpc"
_JSON_TYPES: Final = frozenset(
    {b"", b"application/json", b"application/json-rpc", b"application/jsonrequest"}
)
_LIMIT_DIGITS: Final = 15
_END: Final = b"\r\n\r\n"
_ID_LINE: Final = b"\r\nX-Request-Id: "
_ID_LENGTH: Final = 32
_MOST_KNOWN: Final = 16_384  # heads, of
_LONGEST_KNOWN: Final = 1024  # bytes each at most

# What a second header of the same name would make ambiguous.
_SINGLE: Final = frozenset(
    {
        *(b"host", b"content-length", b"transfer-encoding", b"content-type", b"authorization", b"expect"),
        *(b"x-ssl-verify", b"x-ssl-subject-dn", b"x-ssl-issuer-dn", b"content-encoding"),
    }
)
_PLURAL: Final = {b"x-request-id", b"x-forwarded-for", b"x-real-ip", b"upgrade", b"origin", b"sec-fetch-site"}
_MATTER: Final = _SINGLE | _PLURAL


@dataclass(frozen=True, slots=True)
class FastLaneLimits:
    """Bounds of the listener: sizes in bytes, times in seconds.

    ``held_bytes`` bounds the bodies of all connections together.  ``in_flight`` is how
    many requests of one connection run at a time; further ones wait unread.
    ``per_turn`` is how many that have to wait for something are begun in one turn of the
    loop: whoever else uses the loop waits for no more than those.
    ``header_s`` and ``body_s`` are for the whole head and the whole body.
    """

    head_bytes: int = 16 * 1024
    header_count: int = 64
    body_bytes: int = 16 * 1024 * 1024
    held_bytes: int = 256 * 1024 * 1024
    connections: int = 12_000
    in_flight: int = 16
    per_turn: int = 16
    header_s: float = 15.0
    body_s: float = 120.0
    idle_s: float = 180.0
    write_s: float = 60.0
    linger_s: float = 2.0
    linger_bytes: int = 1024 * 1024


class Refusal(Exception):
    """A request that is answered with ``status`` by the listener itself."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


class Head:
    """The request line and headers of one request, first gathered and then checked.

    ``fields`` holds the headers that matter by lower-case name once `check` was called,
    ``bearer`` the token of ``Authorization: Bearer``, or none for any other scheme, and
    ``certificate`` the subject and the issuer of the client certificate that a proxy in front
    says it has verified, if it does and there is no token.  ``coding`` says how the body is
    compressed, if it is.
    """

    __slots__ = ("_limits", "bearer", "certificate", "coding", "fields", "raw_fields", "url")

    def __init__(self, limits: FastLaneLimits) -> None:
        self.bearer: str | None = None
        self.certificate: tuple[str, str] | None = None
        self.coding = ""
        self.url = b""
        self.raw_fields: list[tuple[bytes, bytes]] = []
        self.fields: dict[bytes, bytes] = {}
        self._limits = limits

    def check(self, method: bytes, version: str) -> None:
        """Raise Refusal unless this is the head of a message that is taken here."""
        self._sort_fields()
        self._check_framing(version)
        if self.url != _PATH and self.url.partition(b"?")[0] != _PATH:
            raise Refusal(HTTPStatus.NOT_FOUND, "only /jsonrpc is served here")
        if method != b"POST":
            raise Refusal(HTTPStatus.METHOD_NOT_ALLOWED, "only POST is taken")
        kind = self.fields.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind not in _JSON_TYPES:
            raise Refusal(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "the body must be application/json")
        if self.fields.get(b"expect", b"100-continue").lower() != b"100-continue":
            raise Refusal(HTTPStatus.EXPECTATION_FAILED, "only 100-continue can be expected")
        self.bearer = _bearer(self.fields.get(b"authorization", b""))
        if b"content-encoding" in self.fields:
            self.coding = self.fields[b"content-encoding"].decode("latin-1")
        if self.bearer is None and b"x-ssl-verify" in self.fields:
            self.certificate = _certificate(self.fields)

    def _sort_fields(self) -> None:
        """Bound the head, and find the headers that matter; one loop, for it is a large part of the cost."""
        fields = self.fields
        size = len(self.url)
        for name, value in self.raw_fields:
            size += len(name) + len(value) + 4
            key = name.lower()
            if key not in _MATTER:
                continue
            if key not in fields:
                fields[key] = value.strip()
            elif key in _SINGLE:
                raise Refusal(HTTPStatus.BAD_REQUEST, "a header is given twice")
            else:
                fields[key] += b"," + value
        if size > self._limits.head_bytes or len(self.raw_fields) > self._limits.header_count:
            raise Refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the head is too large")

    def _check_framing(self, version: str) -> None:
        fields = self.fields
        if version not in {"1.1", "1.0"}:
            raise Refusal(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 and HTTP/1.0 are spoken")
        if b"upgrade" in fields:
            raise Refusal(HTTPStatus.BAD_REQUEST, "no other protocol is spoken here")
        if version == "1.1" and not fields.get(b"host"):
            raise Refusal(HTTPStatus.BAD_REQUEST, "the Host header is missing")
        coding = fields.get(b"transfer-encoding")
        length = fields.get(b"content-length")
        if coding is not None and (length is not None or version == "1.0" or coding.lower() != b"chunked"):
            raise Refusal(HTTPStatus.BAD_REQUEST, "the length of the body is ambiguous")
        if length is not None:
            self._check_length(length)

    def _check_length(self, length: bytes) -> None:
        if not length.isdigit():
            raise Refusal(HTTPStatus.BAD_REQUEST, "Content-Length is not a number")
        if len(length.lstrip(b"0")) > _LIMIT_DIGITS or int(length) > self._limits.body_bytes:
            raise Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "the body is too large")

    @property
    def wants_continue(self) -> bool:
        """Whether the client waits for ``100 Continue`` before it sends the body."""
        return b"expect" in self.fields

    @property
    def request_id(self) -> str:
        """What the proxy in front calls this request, if it does."""
        given = self.fields.get(b"x-request-id", b"")
        return given.decode("ascii") if _is_id(given) else ""

    def remote(self, peer: str) -> str:
        """The client's address as the proxy at ``peer`` tells it, by the same rules as on the general port.

        That is X-Real-IP, or the last address in X-Forwarded-For, which the proxy itself
        has added; those before it are the client's word.
        """
        last = self.fields.get(b"x-forwarded-for", b"").rpartition(b",")[2]
        for told in (self.fields.get(b"x-real-ip", b""), last):
            text = told.strip().decode("latin-1")
            if _is_address(text):
                return text
        return peer


class KnownHeads:
    """Heads that were taken before: a client sends the same bytes again and again, and they mean the same.

    Only whole requests of one piece are known here, so that bytes whose place in the stream
    could be doubted always go through the parser.  With ``is_proxied`` heads are the same but
    for the id that the proxy in front gives to each request.
    """

    def __init__(self, *, is_proxied: bool = False) -> None:
        self._is_proxied = is_proxied
        self._heads: dict[bytes, tuple[Head, int]] = {}

    def split(self, data: bytes) -> tuple[Head, bytes, str] | None:
        """Head, body and id of ``data`` if it is a known head, its body, and nothing else."""
        end = data.find(_END) + len(_END)
        head, request_id = self._without_id(data[:end])
        found = self._heads.get(head)
        if found is None or end + found[1] != len(data):
            return None
        return found[0], data[end:], request_id

    def learn(self, data: bytes, head: Head, body: bytes) -> None:
        """Remember ``head`` if ``data``, a keep-alive request's first bytes, is all of that request."""
        end = data.find(_END) + len(_END)
        is_plain = b"content-length" in head.fields and not head.wants_continue
        if not is_plain or end > _LONGEST_KNOWN or end + len(body) != len(data):
            return
        if len(self._heads) >= _MOST_KNOWN:
            self._heads.clear()
        head.raw_fields = []
        self._heads[self._without_id(data[:end])[0]] = head, len(body)

    def _without_id(self, head: bytes) -> tuple[bytes, str]:
        at = head.find(_ID_LINE) if self._is_proxied else -1
        if at < 0:
            return head, ""
        begin = at + len(_ID_LINE)
        end = begin + _ID_LENGTH
        given = head[begin:end]
        if not _is_id(given) or head[end : end + 2] != b"\r\n":
            return head, ""
        return head[:at] + head[end:], given.decode("ascii")


def _is_id(given: bytes) -> bool:
    return len(given) == _ID_LENGTH and given.isalnum()


def _bearer(value: bytes) -> str | None:
    scheme, _, token = value.partition(b" ")
    return token.strip().decode("latin-1") if scheme.lower() == b"bearer" else None


def _certificate(fields: dict[bytes, bytes]) -> tuple[str, str] | None:
    # A browser shows certificates unasked, also for the page of another site; programs say neither.
    is_foreign = fields.get(b"sec-fetch-site", b"same-origin") != b"same-origin"
    if b"sec-fetch-site" not in fields and b"origin" in fields:
        is_foreign = True
    subject, issuer = fields.get(b"x-ssl-subject-dn"), fields.get(b"x-ssl-issuer-dn")
    if is_foreign or fields[b"x-ssl-verify"] != b"SUCCESS" or not subject or not issuer:
        return None
    return subject.decode("latin-1"), issuer.decode("latin-1")


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True
