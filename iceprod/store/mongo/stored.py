"""How much each holder keeps: counters that follow the catalogue without transactions.

Whoever is about to change files first leaves a *mark*, the id of the change, in the document
of every holder concerned; then writes the files; then moves the counters, each under the
condition that the mark is still there, and takes the mark away with the same write.  So a
counter moves once or not at all, and a crash leaves a mark.  A holder with marks is repaired
by counting from the catalogue.  That takes all marks away first, so whoever is in the middle
of a change finds that out, and counts, too.  What is counted holds only if nothing has
happened to the document meanwhile, which its ``version`` tells.

One gap is left: a change that loses its mark to a repair, goes on to write, and is cut off
before it can count.  The audit, which counts everything, closes it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any, Final

from iceprod.store.holdings import KINDS, Holder, Tally, text_of
from iceprod.store.mongo.client import Document, UpdateOne
from iceprod.store.mongo.context import Context

COUNTING: Final = "counting"
"""The mark of who counts anew."""
_MARKED: Final = {"$gt": ""}
_TRIES: Final = 8
_PAUSE_S: Final = 0.02


def key_of(holder: Holder) -> str:
    """The key of a holder's document."""
    return f"{holder[0]}:{holder[1]}"


def _named(holder: Holder) -> Document:
    return {"kind": holder[0], "holder": holder[1]}


async def mark(context: Context, batch: str, holders: Collection[Holder]) -> None:
    """Say that a change is about to be made of what these keep."""
    left = sorted(holders)
    while left:
        writes = [
            UpdateOne(
                {"_id": key_of(holder)},
                {"$set": _named(holder), "$addToSet": {"marks": batch}, "$inc": {"version": 1}},
                upsert=True,
            )
            for holder in left
        ]
        done = await context.stored.bulk(writes, ordered=False)
        # Another caller added the same meanwhile: now there is one to mark.
        left = [left[place] for place in sorted(done.duplicates)]


async def settle(context: Context, batch: str, holders: Collection[Holder], tally: Tally | None) -> None:
    """Move the counters of all that were marked, and take the marks away.

    Where the mark is gone, or nobody can say what was changed (``tally`` is None), they are
    counted anew.
    """
    unsure = set(holders)
    if tally is not None and holders:
        sums = tally.sums()
        writes = []
        for holder in sorted(holders):
            size_bytes, files = sums.get(holder, (0, 0))
            change: Document = {
                "$inc": {"bytes": size_bytes, "files": files, "version": 1},
                "$pull": {"marks": batch},
            }
            writes.append(UpdateOne({"_id": key_of(holder), "marks": batch}, change))
        done = await context.stored.bulk(writes, ordered=False)
        if done.matched == len(writes):
            return
    for holder in sorted(unsure):
        await count(context, holder)


async def count(context: Context, holder: Holder) -> bool:
    """Count from the catalogue what a holder keeps; whether the counter was wrong.

    False also if the holder's files would not stand still for as long as counting takes: the
    mark that stays has it counted again.
    """
    for attempt in range(_TRIES):
        if attempt:
            await asyncio.sleep(_PAUSE_S * attempt)
        begun = await context.stored.change(
            {"_id": key_of(holder)},
            {"$set": {**_named(holder), "marks": [COUNTING]}, "$inc": {"version": 1}},
            upsert=True,
        )
        found = await _sum(context, holder)
        change = {"$set": {"bytes": found[0], "files": found[1], "marks": []}, "$inc": {"version": 1}}
        if begun is not None and await context.stored.update(
            {"_id": key_of(holder), "version": begun["version"]}, change
        ):
            return _kept(begun) != found
    return False


async def repair_stored(context: Context) -> None:
    """Count anew where a process that ended has left its mark."""
    for found in await context.stored.find({"marks": _MARKED}, ("kind", "holder")):
        await count(context, (found["kind"], found["holder"]))


async def recount_stored(context: Context) -> int:
    """Count everything; how many counters were wrong."""
    wrong = 0
    for holder in await _drift(context):
        wrong += await count(context, holder)
    return wrong


async def fill_stored(context: Context) -> None:
    """Write all counters; nobody else may change files meanwhile."""
    documents = [
        {
            "_id": key_of(holder),
            **_named(holder),
            "bytes": size_bytes,
            "files": files,
            "marks": [],
            "version": 0,
        }
        for holder, size_bytes, files in await _sums(context)
    ]
    await context.stored.put_all(documents)


async def stored_damage(context: Context) -> list[str]:
    """One line for each counter that is wrong; changes nothing.

    Of a holder whose files are changed just now nothing is said.
    """
    lines = []
    for holder in await _drift(context):
        before = await context.stored.find_one({"_id": key_of(holder)})
        size_bytes, files = await _sum(context, holder)
        after = await context.stored.find_one({"_id": key_of(holder)})
        kept = _kept(after)
        if before == after and not (after or {}).get("marks") and kept != (size_bytes, files):
            lines.append(
                f"{holder[0]} {holder[1]}: stored is {kept[0]} bytes in {kept[1]} files,"
                f" counted {size_bytes} in {files}"
            )
    return lines


def _kept(document: Document | None) -> tuple[int, int]:
    """Bytes and files of a counter, which may not have been moved yet."""
    found = document or {}
    return int(found.get("bytes", 0)), int(found.get("files", 0))


async def _drift(context: Context) -> Sequence[Holder]:
    """Holders whose counter differs from what it counts, be it for a moment."""
    counted = (await _sums(context)).sums()
    kept = {}
    where = {"kind": {"$in": sorted(KINDS)}}
    async for part in context.stored.scan(where, ("kind", "holder", "bytes", "files")):
        kept.update({(found["kind"], found["holder"]): _kept(found) for found in part})
    return [
        holder
        for holder in sorted(kept.keys() | counted.keys())
        if kept.get(holder, (0, 0)) != counted.get(holder, (0, 0))
    ]


async def _sum(context: Context, holder: Holder) -> tuple[int, int]:
    """Bytes and files of one holder in the catalogue."""
    kind, name = holder
    found = await _grouped(context, {KINDS[kind]: name}, None)
    return found[0][1:] if found else (0, 0)


async def _sums(context: Context) -> Tally:
    """Bytes and files of everybody in the catalogue."""
    fields = {"owner": "$owner", "group": "$group", "dataset_id": "$dataset_id"}
    tally = Tally()
    for who, size_bytes, files in await _grouped(context, {"dataset_id": {"$gte": ""}}, fields):
        tally.add(who["owner"], who["group"], who["dataset_id"], size_bytes=size_bytes, files=files)
    return tally


async def _grouped(context: Context, where: Document, fields: Document | None) -> list[tuple[Any, int, int]]:
    """Bytes and files of each combination of some fields.

    FerretDB can't sum two things in one group.  Of files that are changed in between the two
    say different things, as one of a later moment would.
    """
    sums = []
    for added in ("$size_bytes", 1):
        group = {"$group": {"_id": fields, "sum": {"$sum": added}}}
        found = await context.files.aggregate([{"$match": {**where, "here": True}}, group])
        sums.append({text_of(one["_id"]): (one["_id"], int(one["sum"])) for one in found})
    none = (None, 0)
    return [(who, sums[0].get(text, none)[1], files) for text, (who, files) in sums[1].items()]
