"""Tokens of errands at rest: nobody reads them in the store who has not the key."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from file_sites import Chain, open_chain, put, read
from site_harness import task

from iceprod.errors import Unavailable
from iceprod.model.federation import Errand, Original
from iceprod.services.vault_keys import KeyRing
from iceprod.site_sync.files.tokens import ErrandTokens
from iceprod.site_sync.messages import Lent, Shape

TOKEN = "it_RC0wLTAsbGVhc2U.c2lnbmVk"


@pytest.fixture
async def pair(tmp_path: Path) -> AsyncIterator[Chain]:
    """A parent and its child."""
    async with open_chain(tmp_path) as made:
        yield made


@pytest.fixture
def tokens(tmp_path: Path) -> ErrandTokens:
    return ErrandTokens(KeyRing(tmp_path / "keys"))


def lent(lease_id: str) -> Lent:
    names = {"dataset_id": "D", "original_dataset_id": "D", "original_task_id": "D-0-0", "name": "gen"}
    numbers = {"config_version": 1, "original_dataset": 1, "job": 0, "task_index": 0, "jobs_submitted": 1}
    return Lent(
        task_id="D-0-0",
        lease_id=lease_id,
        token=TOKEN,
        requirements=Shape(),
        **names,
        **numbers,  # type: ignore[arg-type]
    )


def errand(lease_id: str, token: str) -> Errand:
    return Errand("M-0-0", "north", "D-0-0", lease_id, token, Original("D", 1, "D-0-0", 0, 0, "gen", 1), 1.0)


async def test_a_token_is_opened_for_its_own_errand_alone(tokens: ErrandTokens):
    first, second = await tokens.seal([lent("l1"), lent("l2")])

    assert TOKEN not in first
    assert await tokens.open(errand("l1", first)) == TOKEN
    for other in (errand("l1", second), errand("l1", first[:-8]), errand("l1", "sealed:?")):
        with pytest.raises(Unavailable, match="key of the token"):
            await tokens.open(other)


async def test_what_an_earlier_release_wrote_is_read(tokens: ErrandTokens):
    assert await tokens.open(errand("l1", TOKEN)) == TOKEN


async def test_a_new_key_opens_what_the_former_one_has_sealed(tokens: ErrandTokens, tmp_path: Path):
    (before,) = await tokens.seal([lent("l1")])
    KeyRing(tmp_path / "keys").rotate()

    assert await tokens.open(errand("l1", before)) == TOKEN


async def test_without_the_key_nothing_is_opened(tokens: ErrandTokens, tmp_path: Path):
    (sealed,) = await tokens.seal([lent("l1")])
    (tmp_path / "keys").rename(tmp_path / "elsewhere")

    with pytest.raises(Unavailable, match="key of the token"):
        await tokens.open(errand("l1", sealed))


async def test_the_store_of_a_child_holds_no_token(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await put(pair.top, f"job_temp/{dataset.dataset_id}/0/in", b"muons")
    (its,) = await pair.child.site.store.errands.open("top", None, 10)
    parent_task = await pair.top.site.store.tasks.get(its.parent_task_id)
    token = pair.top.site.services.accounts.make_task_token(its.parent_task_id, parent_task.lease_id)

    stored = b"".join(each.read_bytes() for each in pair.child.site.settings.data_dir.rglob("*.db*"))
    assert its.lease_id.encode() in stored
    assert token.encode() not in stored
    assert its.token.encode() in stored
    assert await running.get(f"{running.job_area}/in") == b"muons"  # which it is good for all the same


async def test_a_child_that_has_lost_its_keys_keeps_its_files_until_they_are_back(pair: Chain):
    dataset = await pair.lend(task("gen"))
    running = await pair.running()
    await running.put(f"{running.job_area}/out", b"muons")
    keys = pair.child.site.settings.credential_key_path
    keys.rename(keys.with_suffix(".away"))

    with pytest.raises(Unavailable, match="key of the token"):
        await pair.tell()
    keys.with_suffix(".away").rename(keys)
    await pair.tell()

    assert read(pair.top, f"job_temp/{dataset.dataset_id}/0/out") == b"muons"
