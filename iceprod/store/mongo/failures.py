"""What the driver's errors mean to those who use the store."""

from __future__ import annotations

from typing import Final

from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    DocumentTooLarge,
    DuplicateKeyError,
    ExecutionTimeout,
    InvalidOperation,
    NotPrimaryError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from iceprod.errors import AlreadyExists, ConfigError, StoreUnavailable, TooLarge

RETRY_S: Final = 2.0
"""After how long a caller is told to try again."""
DUPLICATE: Final = 11000
_REFUSED: Final = {13, 18, 8000}  # Unauthorized, AuthenticationFailed, and that of hosted services
_CANNOT_NOW: Final = {
    1,  # InternalError
    6,  # HostUnreachable
    7,  # HostNotFound
    8,  # UnknownError
    43,  # CursorNotFound
    46,  # LockBusy
    50,  # MaxTimeMSExpired
    64,  # WriteConcernFailed
    79,  # UnknownReplWriteConcern
    89,  # NetworkTimeout
    91,  # ShutdownInProgress
    100,  # UnsatisfiableWriteConcern
    112,  # WriteConflict
    134,  # ReadConcernMajorityNotAvailableYet
    189,  # PrimarySteppedDown
    202,  # NetworkInterfaceExceededTimeLimit
    262,  # ExceededTimeLimit
    462,  # IngressRequestRateLimitExceeded
    9001,  # SocketException
    10107,  # NotWritablePrimary
    11600,  # InterruptedAtShutdown
    11601,  # Interrupted
    11602,  # InterruptedDueToReplStateChange
    13388,  # StaleConfig
    13435,  # NotPrimaryNoSecondaryOk
    13436,  # NotPrimaryOrSecondary
    14031,  # OutOfDiskSpace
}


def away() -> StoreUnavailable:
    """The error of a call that finds no server."""
    return StoreUnavailable("the datastore does not answer; try again later", retry_after_s=RETRY_S)


def unconfirmed() -> StoreUnavailable:
    """The error of a call that was sent, and of which nobody can say what became."""
    return StoreUnavailable(
        "the datastore was lost before it answered; look whether the change was made before you repeat it",
        retry_after_s=RETRY_S,
        outcome="unknown",
    )


def is_refused(error: Exception) -> bool:
    """Whether the server knows us not, or lets us not do it."""
    return isinstance(error, OperationFailure) and error.code in _REFUSED


def translated(error: Exception) -> Exception:
    """The error that the port promises for one of the driver; a fault of ours stays as it is."""
    if isinstance(error, DuplicateKeyError):
        return AlreadyExists("there is a document with that key already")
    if isinstance(error, DocumentTooLarge):
        return TooLarge("this is too large for one document of the datastore")
    return _unavailable(error) or error


def _unavailable(error: Exception) -> StoreUnavailable | None:
    if isinstance(error, ServerSelectionTimeoutError | NotPrimaryError | InvalidOperation):
        return away()
    if isinstance(error, ConnectionFailure | WriteConcernError):
        return unconfirmed()
    if is_refused(error):
        return StoreUnavailable("the datastore refuses this server", retry_after_s=RETRY_S)
    code = error.code if isinstance(error, OperationFailure) else None
    if isinstance(error, ExecutionTimeout) or code in _CANNOT_NOW:
        return StoreUnavailable("the datastore cannot do this now; try again later", retry_after_s=RETRY_S)
    return None


def wrong_url(url: str, error: Exception) -> ConfigError:
    """What is wrong with a URL that the driver cannot read."""
    # The driver's words may repeat a part of the password.
    why = f": {error}" if "@" not in url else "; percent-encode special characters in name and password"
    return _wrong(f"store.url is no URL of a MongoDB server (mongodb://HOST[:PORT]/DATABASE){why}")


def refusal(error: PyMongoError, where: str) -> Exception:
    """Why the first word to the server failed, for who starts this program."""
    if isinstance(error, OperationFailure) and is_refused(error):
        said = str((error.details or {}).get("errmsg", "")).partition("\n")[0]
        return _wrong(
            f"store.url: the database at {where} refuses this user ({said}); check name, password"
            " and authSource, and that the user has the role readWrite (docs/how-to/mongodb.md)"
        )
    if isinstance(error, ConfigurationError):
        return _wrong(f"store.url: {error}")
    if isinstance(error, ConnectionFailure):
        # The driver goes on with all that it knows of the servers.
        reason = str(error).split(", Timeout:")[0].split(" (configured timeouts")[0][:300]
        return StoreUnavailable(f"no database answers at {where}: {reason}", retry_after_s=RETRY_S)
    return translated(error)


def _wrong(message: str) -> ConfigError:
    return ConfigError(message, fields=[{"path": "store.url", "message": message}])
