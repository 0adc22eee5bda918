"""Whether the queries that are sent to MongoDB are served by the declared indexes.

The test server reads whole collections whatever indexes there are, so its plans say nothing.
What is proved here from commands and indexes alone is what a MongoDB server does: it finds
documents by a field that is the first of an index, and gives them in the order of that index.
Where the tests run on a MongoDB server its own ``explain`` is asked as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pymongo import MongoClient
from pymongo.monitoring import (
    CommandFailedEvent,
    CommandListener,
    CommandStartedEvent,
    CommandSucceededEvent,
)

from iceprod.store.mongo.migrations import indexes

Keys = tuple[str, ...]

SMALL = {
    "heads": "one document for each process that lives",
    "vals": "the site's own documents",
}
"""Collections that never hold more than a few documents."""

WHOLE = {
    "datasets": "`check` looks at every dataset",
    "jobs": "`check` looks at every job",
}
"""Collections that are read as a whole now and then, and why they may be."""

_NOT_LOOKED_UP = {"$ne", "$nin", "$not", "$exists"}


@dataclass(frozen=True)
class Query:
    """Which documents a command asks for, and in which order."""

    collection: str
    where: Mapping[str, Any]
    sort: Sequence[tuple[str, int]] = ()
    limit: int = 0

    def __str__(self) -> str:
        return f"{self.collection}: {dict(self.where)} by {list(self.sort)}, limit {self.limit}"


@dataclass
class Recorder(CommandListener):
    """Every query of a client."""

    queries: list[Query] = field(default_factory=list)

    def started(self, event: CommandStartedEvent) -> None:
        self.queries += queries(event.command_name, event.command)

    def succeeded(self, event: CommandSucceededEvent) -> None:
        pass

    def failed(self, event: CommandFailedEvent) -> None:
        pass

    def scans(self) -> list[str]:
        """The queries that no index serves."""
        return sorted({str(query) for query in self.queries if not is_served(query)})


def queries(name: str, command: Mapping[str, Any]) -> Iterator[Query]:
    """What a command looks for; nothing if it adds documents only, or goes on reading."""
    collection = command.get(name)
    if name in ("find", "findAndModify"):
        where = command.get("filter" if name == "find" else "query", {})
        yield Query(collection, where, list(command.get("sort", {}).items()), command.get("limit", 0))
    elif name in ("update", "delete"):
        for part in command["updates" if name == "update" else "deletes"]:
            if part["q"] or name == "update":  # what is emptied is emptied as a whole
                yield Query(collection, part["q"])
    elif name in ("aggregate", "count", "distinct"):
        pipeline = command.get("pipeline", [{"$match": command.get("query", {})}])
        where = pipeline[0].get("$match", {})
        if where or len(pipeline) > 2:  # a copy counts all that there is, by $match and $group
            yield Query(collection, where)


def is_served(query: Query) -> bool:
    """Whether an index leads to the documents, in their order."""
    if query.collection in SMALL:
        return True
    if not query.where and not query.sort:
        return query.collection in WHOLE
    if any(_serves(keys, query) for keys in _keys(query.collection)):
        return True
    branches = query.where.get("$or", ())
    rest = {name: condition for name, condition in query.where.items() if name != "$or"}
    return bool(branches) and all(
        is_served(Query(query.collection, {**rest, **branch}, query.sort)) for branch in branches
    )


def _keys(collection: str) -> list[Keys]:
    declared = [tuple(index.document["key"]) for index in indexes().get(collection, ())]
    return [("_id",), *declared]


def _serves(keys: Keys, query: Query) -> bool:
    first, sort = keys[0], [name for name, _ in query.sort]
    if not query.where and not query.limit and query.collection not in WHOLE:
        return False
    if query.where and first not in (name for name in query.where if _looks_up(query.where[name])):
        return False
    if keys == ("_id",) and _is_equal(query.where.get("_id")):
        return True  # one document needs no order
    fixed = 0
    while fixed < len(keys) and _is_fixed(query.where.get(keys[fixed])):
        fixed += 1
    return any(list(keys[start : start + len(sort)]) == sort for start in range(fixed + 1))


def _looks_up(condition: Any) -> bool:
    return not isinstance(condition, Mapping) or not condition.keys() <= _NOT_LOOKED_UP


def _is_equal(condition: Any) -> bool:
    return condition is not None and not isinstance(condition, Mapping)


def _is_fixed(condition: Any) -> bool:
    """Equality, or equality with one of a few, whose runs the server merges in order."""
    return _is_equal(condition) or (isinstance(condition, Mapping) and condition.keys() == {"$in"})


def explained_scans(url: str, found: Sequence[Query]) -> list[str]:
    """The queries for which the server itself says that it would read the whole collection.

    Empty for a server that is no MongoDB.
    """
    with MongoClient[dict[str, Any]](url) as client:
        if "ferretdb" in client.server_info() or "ferretdbVersion" in client.server_info():
            return []
        database = client.get_default_database()
        scans = set()
        for query in found:
            find: dict[str, Any] = {"find": query.collection, "filter": query.where, "sort": dict(query.sort)}
            plan = database.command({"explain": find, "verbosity": "queryPlanner"})
            if query.where and "COLLSCAN" in _stages(plan["queryPlanner"]["winningPlan"]):
                scans.add(str(query))
        return sorted(scans)


def _stages(plan: Any) -> set[str]:
    if isinstance(plan, Mapping):
        own = {plan["stage"]} if "stage" in plan else set()
        return own.union(*(_stages(part) for part in plan.values()))
    if isinstance(plan, list):
        return set().union(*map(_stages, plan))
    return set()
