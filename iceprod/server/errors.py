"""From the slug of an error to the status of an HTTP answer (pages, files, events)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final

from tornado.web import HTTPError

from iceprod.errors import IceProdError

HTTP_STATUS: Final[dict[str, HTTPStatus]] = {
    "internal": HTTPStatus.INTERNAL_SERVER_ERROR,
    "bad_config": HTTPStatus.INTERNAL_SERVER_ERROR,
    "invalid_input": HTTPStatus.UNPROCESSABLE_ENTITY,
    "invalid_query": HTTPStatus.BAD_REQUEST,
    "invalid_document": HTTPStatus.UNPROCESSABLE_ENTITY,
    "not_authenticated": HTTPStatus.UNAUTHORIZED,
    "access_denied": HTTPStatus.FORBIDDEN,
    "quota_exceeded": HTTPStatus.FORBIDDEN,
    "not_found": HTTPStatus.NOT_FOUND,
    "conflict": HTTPStatus.CONFLICT,
    "already_exists": HTTPStatus.CONFLICT,
    "invalid_transition": HTTPStatus.CONFLICT,
    "lease_lost": HTTPStatus.CONFLICT,
    "version_mismatch": HTTPStatus.PRECONDITION_FAILED,
    "too_large": HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "rate_limited": HTTPStatus.TOO_MANY_REQUESTS,
    "transfer_failed": HTTPStatus.BAD_GATEWAY,
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
}
"""Slug → status."""

_BY_REASON: Final = {
    "storage_full": HTTPStatus.INSUFFICIENT_STORAGE,
    "locked": HTTPStatus.LOCKED,
    "gone": HTTPStatus.GONE,
}
"""Where the reason says more than the slug."""

_RETRY_S: Final = 5


def status_of(error: BaseException | None) -> HTTPStatus | None:
    """The status of an error that callers may see; None for a fault of ours."""
    if isinstance(error, IceProdError):
        return _BY_REASON.get(str(error.detail.get("reason")), HTTP_STATUS[error.code])
    return None


def retry_after(error: BaseException | None) -> str | None:
    """The value of ``Retry-After`` where a later try can help."""
    if isinstance(error, IceProdError) and error.retryable:
        return str(max(1, round(float(error.detail.get("retry_after_s", _RETRY_S)))))
    return None


def describe(error: BaseException | None, *, status: int, request_id: str) -> dict[str, Any]:
    """The body of an error answer of files, events and the like: one shape everywhere."""
    told = _told(error)
    code = told.code if told else _code_of(status)
    detail = told.detail if told else {}
    message = phrase(error, status)
    return {"error": {"code": code, "message": message, "detail": detail, "request_id": request_id}}


def phrase(error: BaseException | None, status: int) -> str:
    """What a person is told of an error; of a fault of ours only that there was one."""
    told = _told(error)
    if told:
        return told.message
    if isinstance(error, HTTPError) and error.log_message and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return error.log_message
    try:
        return HTTPStatus(status).description or HTTPStatus(status).phrase
    except ValueError:
        return "the request failed"


def _told(error: BaseException | None) -> IceProdError | None:
    """``error`` if the caller may see its text."""
    if isinstance(error, IceProdError) and HTTP_STATUS[error.code] is not HTTPStatus.INTERNAL_SERVER_ERROR:
        return error
    return None


def _code_of(status: int) -> str:
    """The slug nearest to a status that Tornado itself has chosen."""
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "internal"
    by_status = {
        int(HTTPStatus.NOT_FOUND): "not_found",
        int(HTTPStatus.FORBIDDEN): "access_denied",
        int(HTTPStatus.REQUEST_ENTITY_TOO_LARGE): "too_large",
    }
    return by_status.get(status, "invalid_input")
