"""What follows a change of jobs: attempts, counters, roll-up, and the tasks of other datasets.

A job's document lists what it owes (`owed.Owed`), written together with the change.  Then,
in this order: the attempts are kept and the counters of the dataset moved, the dataset's
status is brought up to them, the tasks of other datasets that depend on it are settled, and
the debt is struck off.  A crash leaves the debt, and `carry_out` does the same again.

Counters must move exactly once, although a debt may be worked on by its own process, which
may only be slow, and by one or more that repair:

* A dataset has an ``epoch``.  A batch of moves knows one from before it wrote its jobs, and its
  quick change of the counters has that epoch and the absence of its mark as its condition.
  It leaves its mark in ``applied``, which only a later quick change of the same epoch removes,
  after the debts of the batch have been struck off.
* Who repairs begins a new epoch first.  From then on no batch of an older epoch can change
  counters quickly or have marks removed; debts of batches that know the new epoch are left
  alone.  Each other debt is carried out by itself, under the condition that the epoch is
  still the same and that there is a mark neither of the batch nor of this debt.
* A repair that finds a later epoch goes on in that: it has shut out whomever the earlier one did.
* A batch whose quick change was refused, because of a repair, counts again in the present
  epoch, on the condition that there is a mark neither of itself nor of one of its debts;
  where there is one, it carries out each debt by itself.  Its mark stays then, for a repair may
  have seen its debts.

So nobody but who repairs begins an epoch, and never a second one: batches and repairs that meet
would otherwise shut out one another for ever.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from iceprod.model.lifecycle import JobStatus
from iceprod.store.mongo.client import Document
from iceprod.store.mongo.context import Context, contend, together
from iceprod.store.mongo.documents import HEAD_FIELDS, head_of, job_counts, job_place, of_dataset
from iceprod.store.mongo.owed import Owed, increments, read_owed
from iceprod.store.mongo.states import State
from iceprod.store.mongo.work import JobWork
from iceprod.store.mongo.writing import Taken, carry

Flips = Mapping[int, Sequence[int]]  # job index -> tasks that were or are complete
Debts = Mapping[int, Owed]  # job index -> what it owes for a batch
OWES = {"$gt": ""}
"""The condition on ``owing`` that jobs with debts meet: an index cannot tell an empty list."""
_ABSENT: Final = {"$exists": False}


async def follow(context: Context, batch: str, taken: Taken) -> None:
    """Do what must follow a batch of written changes, and complete the results of its moves."""
    groups: defaultdict[str, Taken] = defaultdict(list)
    for work, owed in taken:
        groups[work.state.dataset_id].append((work, owed))
    await together(*(_follow_in(context, batch, group) for group in groups.values()))


async def carry_out(context: Context, dataset_id: str) -> None:
    """Carry out what jobs of a dataset owe, whoever changed them.

    What batches owe that know the epoch that begins with this is left to them.
    """
    document = await context.datasets.change({"_id": dataset_id}, {"$inc": {"epoch": 1, "version": 1}})
    while document is not None:
        state = context.states.learn(document)
        where: Document = {"owing": OWES, "key": of_dataset(state.number)}
        # Read after the epoch: what was struck off before must not be met.
        for job in await context.jobs.find(where, ("owing", "owed")):
            if not await _carry_out_of(context, state, document["epoch"], job):
                break  # another repair has begun
        else:
            return
        document = await context.datasets.find_one({"_id": dataset_id})


async def roll_up(context: Context, document: Document, *, now: float) -> Document:
    """Bring a dataset's status up to its counters; the dataset then, as far as `HEAD_FIELDS` go."""
    tries = 0
    while True:
        status = head_of(document).rolled_up(job_counts(document))
        if status == document["status"]:
            return document
        changed = await context.datasets.change(
            {"_id": document["_id"], "version": document["version"]},
            {"$set": {"status": status.value, "status_changed_at": now}, "$inc": {"version": 1}},
            fields=HEAD_FIELDS,
        )
        if changed is not None:
            return changed
        found = await context.datasets.find_one({"_id": document["_id"]}, HEAD_FIELDS)
        if found is None:
            return document
        document = found
        await contend(tries)
        tries += 1


async def settle_dependents(context: Context, needed: State, flips: Flips, *, now: float) -> list[JobWork]:
    """Put tasks of other datasets where their needs say, after tasks of this one have changed.

    Their jobs are written even if nothing has changed in them: another writer may have read
    them and what they need before.
    """
    job_ids = [f"{other}-{index}" for index in flips for other in needed.needed_by]

    def step(work: JobWork) -> None:
        tasks = work.state.dependents_of(needed.dataset_id, flips[work.job_index])
        work.is_touched = bool(tasks)
        work.settle(tasks, now=now)

    async def effects(batch: str, taken: Taken) -> None:
        await follow(context, batch, taken)

    return await carry(context, job_ids, step, effects) if job_ids else []


async def _follow_in(context: Context, batch: str, taken: Taken) -> None:
    """What must follow in one dataset, and wherever tasks depend on it."""
    state, works = taken[0][0].state, [work for work, _ in taken]
    debts = {work.job_index: owed for work, owed in taken if not owed.is_empty}
    document: Document | None = None
    settled: list[JobWork] = []
    if debts:
        document, settled = await _pay(context, state, batch, debts)
    elif any(work.job_changes for work in works):
        document = await context.datasets.find_one({"_id": state.dataset_id}, HEAD_FIELDS)
    if document is not None:
        _tell_dataset(document, works)
    _tell_settled(works, settled)


async def _pay(
    context: Context, state: State, batch: str, debts: Debts
) -> tuple[Document | None, list[JobWork]]:
    """Carry out what the jobs of one batch owe; the dataset then, and the jobs settled by that."""
    epoch = next(iter(debts.values())).epoch
    attempts = [attempt for owed in debts.values() for attempt in owed.attempts]
    document, _ = await together(
        _count_quickly(context, state, batch, epoch, debts), context.attempts.insert_missing(attempts)
    )
    is_quick = document is not None
    while document is None:
        found = await context.datasets.find_one({"_id": state.dataset_id}, HEAD_FIELDS)
        if found is None:
            return None, []
        state.learn(found)
        document = await _count_again(context, state, batch, found["epoch"], debts)
    at = max(owed.at for owed in debts.values())
    await roll_up(context, document, now=at)
    flips = {job_index: owed.flips for job_index, owed in debts.items() if owed.flips}
    settled = await settle_dependents(context, state, flips, now=at)
    await _strike(context, [f"{state.dataset_id}-{job_index}" for job_index in debts], batch)
    if is_quick:
        state.settled.append((batch, epoch))
    return document, settled


async def _count_quickly(
    context: Context, state: State, batch: str, epoch: int, debts: Debts
) -> Document | None:
    """Move the counters once for all debts of a batch; None if there has been a repair meanwhile."""
    marks = [mark for mark, known in state.settled if known == epoch]
    state.settled.clear()
    change: Document = {
        "$inc": {**increments(debts.values()), "version": 1},
        "$set": {f"applied.{batch}": 1},
    }
    if marks:
        change["$unset"] = {f"applied.{mark}": "" for mark in marks}
    where = {"_id": state.dataset_id, "epoch": epoch, f"applied.{batch}": _ABSENT}
    return _learnt(state, await context.datasets.change(where, change, fields=HEAD_FIELDS))


async def _count_again(
    context: Context, state: State, batch: str, epoch: int, debts: Debts
) -> Document | None:
    """Move the counters for the debts of a batch that was too late; None if that epoch is over."""
    marks = [f"applied.{batch}", *(f"applied.{batch}/{job_index}" for job_index in debts)]
    document = await context.datasets.change(
        {"_id": state.dataset_id, "epoch": epoch, **dict.fromkeys(marks, _ABSENT)},
        {"$inc": {**increments(debts.values()), "version": 1}, "$set": {marks[0]: 1}},
        fields=HEAD_FIELDS,
    )
    if document is not None:
        return _learnt(state, document)
    for job_index, owed in debts.items():
        document = await _count_once(context, state, epoch, (batch, job_index), owed)
        if document is None:
            return None
    return document


async def _carry_out_of(context: Context, state: State, epoch: int, job: Document) -> bool:
    """Carry out what one job owes; whether the epoch lasted."""
    place = job_place(job["_id"])
    for batch in list(job.get("owing", ())):
        owed = read_owed(job["owed"][batch])
        if place is None or owed.epoch >= epoch:
            continue
        if owed.attempts:
            await context.attempts.insert_missing(owed.attempts)
        document = await _count_once(context, state, epoch, (batch, place[1]), owed)
        if document is None:
            return False
        await roll_up(context, document, now=owed.at)
        if owed.flips:
            await settle_dependents(context, state, {place[1]: owed.flips}, now=owed.at)
        await _strike(context, [job["_id"]], batch)
    return True


async def _count_once(
    context: Context, state: State, epoch: int, debt: tuple[str, int], owed: Owed
) -> Document | None:
    """Move the counters for one debt unless that was done; None if the epoch is over."""
    batch, job_index = debt
    mark = f"applied.{batch}/{job_index}"
    here = {"_id": state.dataset_id, "epoch": epoch}
    document = await context.datasets.change(
        {**here, f"applied.{batch}": _ABSENT, mark: _ABSENT},
        {"$inc": {**increments((owed,)), "version": 1}, "$set": {mark: 1}},
        fields=HEAD_FIELDS,
    )
    return _learnt(state, document or await context.datasets.find_one(here, HEAD_FIELDS))


def _learnt(state: State, document: Document | None) -> Document | None:
    if document is not None:
        state.learn(document)
    return document


async def _strike(context: Context, job_ids: Sequence[str], batch: str) -> None:
    """Strike off what jobs owed for a batch."""
    where = {"_id": job_ids[0] if len(job_ids) == 1 else {"$in": list(job_ids)}}
    await context.jobs.update_many(where, {"$unset": {f"owed.{batch}": ""}, "$pull": {"owing": batch}})


def _tell_dataset(document: Document, works: Iterable[JobWork]) -> None:
    """Tell each move whether it changed the dataset's status; ``document`` is as all moves left it."""
    changes = [(place, *change, work) for work in works for place, change in work.job_changes.items()]
    if not changes:
        return
    changes.sort(key=lambda change: change[0])
    dataset, counts = head_of(document), Counter[JobStatus](job_counts(document))
    for _, before, after, _ in changes:
        counts[after] -= 1
        counts[before] += 1
    status = dataset.rolled_up(counts)
    for place, before, after, work in changes:
        counts[before] -= 1
        counts[after] += 1
        former, status = status, dataset.rolled_up(counts)
        moved = work.results[place]
        if status is not former and moved is not None:
            work.results[place] = replace(moved, dataset=status)


def _tell_settled(works: Iterable[JobWork], settled: Sequence[JobWork]) -> None:
    """Tell the moves which tasks of other datasets they released and held."""
    for work in works:
        found = [other for other in settled if other.job_index == work.job_index]
        moved = None if work.last_flip is None else work.results[work.last_flip]
        if moved is None or work.last_flip is None:
            continue
        work.results[work.last_flip] = replace(
            moved,
            released=moved.released + tuple(task for other in found for task in other.released),
            held=moved.held + tuple(task for other in found for task in other.held),
        )
