"""Logs of tasks in MongoDB."""

from __future__ import annotations

from iceprod.errors import NotFoundError
from iceprod.model.task import parse_task_id
from iceprod.store.base import LogInfo, LogRepository
from iceprod.store.mongo.client import ASCENDING, Database, Document, IndexModel
from iceprod.store.mongo.places import place

INDEXES = {
    "logs": (IndexModel([("task_id", ASCENDING), ("attempt", ASCENDING), ("name", ASCENDING)], name="task"),),
}

_INFO = ("task_id", "attempt", "name", "size_bytes", "uploaded_at")


class MongoLogs(LogRepository):
    """``logs``, one document for each: a document may have 16 MB, and the services take 12 MiB."""

    def __init__(self, database: Database) -> None:
        self._logs = database.collection("logs")
        self._datasets = database.collection("datasets")
        self._known: set[str] = set()

    async def put(self, info: LogInfo, data: bytes) -> None:
        """See the port."""
        if not await self._is_known(info.task_id):
            raise NotFoundError("task", info.task_id)
        await self._logs.put(log_document(info, data))

    async def get(self, task_id: str, attempt: int, name: str) -> bytes | None:
        """See the port."""
        found = await self._logs.find_one({"_id": _key(task_id, attempt, name)}, ("data",))
        return None if found is None else bytes(found["data"])

    async def of_task(self, task_id: str) -> list[LogInfo]:
        """See the port."""
        found = await self._logs.find(
            {"task_id": task_id}, _INFO, sort=[("attempt", ASCENDING), ("name", ASCENDING)]
        )
        return [info_of(document) for document in found]

    async def _is_known(self, task_id: str) -> bool:
        """Whether the task's dataset exists, which it then does for good."""
        try:
            dataset_id = parse_task_id(task_id)[0]
        except NotFoundError:
            return False
        if dataset_id not in self._known:
            if await self._datasets.find_one({"_id": dataset_id}, ("_id",)) is None:
                return False
            self._known.add(dataset_id)
        return True


def log_document(info: LogInfo, data: bytes) -> Document:
    """A log as it is stored."""
    return {
        "_id": _key(info.task_id, info.attempt, info.name),
        **{name: getattr(info, name) for name in _INFO},
        "data": data,
    }


def info_of(document: Document) -> LogInfo:
    """What is known of a log, from its document with or without the data."""
    return LogInfo(
        document["task_id"],
        int(document["attempt"]),
        document["name"],
        int(document["size_bytes"]),
        document["uploaded_at"],
    )


def _key(task_id: str, attempt: int, name: str) -> str:
    return f"{place(task_id)}:{attempt:06d}:{name}"
