"""The part of the datastore's port that is about files: catalogue, use, quotas, credentials.

The promises of `iceprod.store.base` hold here, too.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from iceprod.model.file import FileRecord, OriginCredential, Quota, Replica, Stored, Usage
from iceprod.model.paging import Page, Slice


@dataclass(frozen=True, slots=True)
class FileFilter:
    """Which files to list; None leaves a field open.

    ``prefix`` is the beginning of a name.  ``sha256`` finds contents wherever they lie.
    ``visible_to`` is (user name, groups) as in `DatasetFilter`, by the file's own owner and group.
    """

    dataset_id: str | None = None
    job_index: int | None = None
    task_index: int | None = None
    prefix: str = ""
    sha256: str | None = None
    visible_to: tuple[str, frozenset[str]] | None = None

    def runs(self) -> list[dict[str, str | int]]:
        """Which values fields must have; a file is meant that has all of any of them.

        Each is a run of an index, ordered by name and dataset, so that lists are made by
        merging and nothing has to be sorted.
        """
        equal: dict[str, str | int] = {}
        for field in ("dataset_id", "job_index", "task_index", "sha256"):
            if (value := getattr(self, field)) is not None:
                equal[field] = value
        if self.visible_to is None:
            return [equal]
        user, groups = self.visible_to
        return [{**equal, "owner": user}, *({**equal, "group": group} for group in sorted(groups))]


@dataclass(frozen=True, slots=True)
class UsageFilter:
    """Which use to tell; days are ``YYYY-MM-DD``, both included, None leaves a field open."""

    since: str | None = None
    until: str | None = None
    user: str | None = None
    dataset_id: str | None = None


class FileRepository(ABC):
    """The catalogue, and how much each holder keeps, which follows it as counters follow tasks.

    What is kept are the files that are here (`FileRecord.is_here`), at full size.
    """

    @abstractmethod
    async def put(self, files: Sequence[FileRecord]) -> list[bool]:
        """Keep records in place of those of the same dataset and name; for each whether it is new.

        A former record's replicas are kept where the contents (``sha256``) are the same.
        """

    @abstractmethod
    async def get(self, dataset_id: str, name: str) -> FileRecord | None:
        """One file."""

    @abstractmethod
    async def select(self, wanted: FileFilter, page: Page) -> Slice[FileRecord]:
        """Files by name, those of the same name by dataset."""

    @abstractmethod
    async def add_replica(self, dataset_id: str, name: str, replica: Replica) -> bool:
        """Note another place of a file, or that it was seen there again; False if there is no such file."""

    @abstractmethod
    async def drop_replica(self, dataset_id: str, name: str, url: str) -> bool:
        """Forget a place of a file, and the file with its last place; whether it was known."""

    @abstractmethod
    async def delete(self, dataset_id: str, names: Sequence[str]) -> int:
        """Forget files; how many there were."""

    @abstractmethod
    async def stored(self, kind: str, holder: str) -> Stored:
        """How much is kept for one holder."""

    @abstractmethod
    async def holders(self, kind: str, page: Page) -> Slice[Stored]:
        """Every holder of a kind that keeps something, by name."""

    @abstractmethod
    async def recount(self) -> int:
        """Count what is kept anew; how many counters were wrong."""


class UsageRepository(ABC):
    """What was moved for whom, and how much may be kept."""

    @abstractmethod
    async def add(self, usage: Sequence[Usage]) -> None:
        """Add to what is there of the same day and flow."""

    @abstractmethod
    async def select(self, wanted: UsageFilter, page: Page) -> Slice[Usage]:
        """What was moved, by day, newest first."""

    @abstractmethod
    async def quotas(self) -> list[Quota]:
        """Every limit that was set, by kind and holder."""

    @abstractmethod
    async def set_quota(self, quota: Quota) -> None:
        """Set a limit; one with neither bytes nor files is forgotten."""


class CredentialRepository(ABC):
    """Secrets for origins, encrypted."""

    @abstractmethod
    async def put(self, credential: OriginCredential) -> None:
        """Keep a secret in place of the one of the same origin and user."""

    @abstractmethod
    async def get(self, origin: str, user: str) -> OriginCredential | None:
        """The secret of one user for an origin, whether expired or not."""

    @abstractmethod
    async def of_user(self, user: str) -> list[OriginCredential]:
        """What one user (or the site) has, by origin."""

    @abstractmethod
    async def expiring(self, before: float, limit: int) -> list[OriginCredential]:
        """What expires before an instant, soonest first."""

    @abstractmethod
    async def delete(self, origin: str, user: str) -> bool:
        """Forget a secret; whether there was one."""


class FileStore:
    """The part of a store that is about files."""

    files: FileRepository
    usage: UsageRepository
    credentials: CredentialRepository
