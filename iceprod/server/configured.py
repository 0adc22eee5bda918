"""What the settings say, as the values that services and dispatchers take."""

from __future__ import annotations

from iceprod.config import FailureSettings, Settings
from iceprod.model.failures import DEFAULT_RULES, FailureKind, FailureRule
from iceprod.rpc.protocol import Limits


def rpc_limits(settings: Settings) -> Limits:
    """The limits of JSON-RPC messages."""
    rpc = settings.rpc
    return Limits(
        body_bytes=rpc.max_message_bytes,
        batch_length=rpc.max_batch,
        depth=rpc.max_depth,
        answer_bytes=rpc.max_answer_bytes,
    )


def failure_rules(settings: FailureSettings) -> tuple[FailureRule, ...]:
    """The site's rules, then the built-in ones."""
    own = (
        FailureRule(
            rule.name,
            kinds=tuple(FailureKind(kind) for kind in rule.kinds),
            exit_codes=rule.exit_codes,
            signals=rule.signals,
            phrases=rule.phrases,
            limit=rule.limit,
            backoff_s=rule.backoff_s,
            factor=rule.backoff_factor,
            backoff_max_s=rule.backoff_max_s,
        )
        for rule in settings.rules
    )
    return (*own, *DEFAULT_RULES)
