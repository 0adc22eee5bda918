"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found, and what to do about it."""

    check: str
    verdict: Verdict
    message: str
    advice: str = ""


def good(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, Verdict.OK, message)


def warning(check: str, message: str, advice: str) -> Finding:
    """It works, but somebody should look at it."""
    return Finding(check, Verdict.WARNING, message, advice)


def failed(check: str, message: str, advice: str) -> Finding:
    """A site cannot work like that."""
    return Finding(check, Verdict.FAILED, message, advice)
