"""The log: one event per line, with its values beside it and no secrets in it.

Code logs by `structlog.get_logger` or by standard `logging` with ``extra``; both end here.
What belongs to a request (its id, the caller, a task) is bound once by
`structlog.contextvars.bind_contextvars` and appears with every event of it.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Final, TextIO

import msgspec
import structlog
from structlog.typing import EventDict, Processor

_SECRET_KEYS: Final = re.compile(
    r"passkey|password|passwd|secret|authorization|cookie|x-?xsrf|_xsrf|credential|private_?key|^token$|_token$",
    re.I,
)
_SECRETS: Final = re.compile(r"\bi[uptsw]_[A-Za-z0-9_.-]{8,}")
_PRIVATE_KEYS: Final = re.compile(
    r"-----BEGIN ([A-Z ]*)PRIVATE KEY-----.*?(-----END \1PRIVATE KEY-----|$)", re.S
)
_HIDDEN: Final = "[hidden]"
_LONGEST: Final = 20_000
_DEPTH: Final = 6


def scrub(value: Any, depth: int = 0) -> Any:
    """``value`` without anything that looks like a secret, by its key or by its prefix."""
    if isinstance(value, str):
        value = _SECRETS.sub(lambda found: found[0][:3] + _HIDDEN, value[:_LONGEST])
        return _PRIVATE_KEYS.sub(_HIDDEN, value) if "PRIVATE KEY" in value else value
    if isinstance(value, Mapping) and depth < _DEPTH:
        return {
            key: _HIDDEN if _SECRET_KEYS.search(str(key)) and item else scrub(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset) and depth < _DEPTH:
        return [scrub(item, depth + 1) for item in value]
    if value is None or isinstance(value, int | float):
        return value
    return scrub(str(value), depth)


def _scrub_event(_logger: Any, _method: str, event: EventDict) -> EventDict:
    return {key: value if key.startswith("_") else scrub({key: value})[key] for key, value in event.items()}


def _dumps(event: Any, **_options: Any) -> str:
    return msgspec.json.encode(event).decode()


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]


def configure(*, level: str = "info", form: str = "auto", stream: TextIO | None = None) -> None:
    """Send every log event to ``stream`` (standard error) as ``form``: text, json or auto.

    May be called again; the former set-up is replaced.
    """
    stream = stream or sys.stderr
    as_text = form == "text" or (form == "auto" and stream.isatty())
    renderer: Processor = (
        structlog.dev.ConsoleRenderer(colors=stream.isatty())
        if as_text
        else structlog.processors.JSONRenderer(serializer=_dumps)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_common(), structlog.stdlib.ExtraAdder()],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Tracebacks become text first, so that they are scrubbed like all else.
                structlog.processors.format_exc_info,
                _scrub_event,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Tornado's own access log would say everything a second time.
    logging.getLogger("tornado.access").propagate = False
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *_common(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
