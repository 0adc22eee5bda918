"""Files of the temp areas go when their time is over, and not before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from site_harness import ADMIN, Site, task

from iceprod.model.file import FileRecord, Replica
from iceprod.services.file_catalogue import FileCatalogue, here
from iceprod.services.sweeping import Sweep
from iceprod.services.temp_areas import TempAreas, TempLimits

HOUR = 3600.0
LIMITS = TempLimits(job_keep_s=HOUR, dataset_keep_s=24 * HOUR, site_keep_s=None)


def areas_of(site: Site, limits: TempLimits = LIMITS) -> TempAreas:
    known = FileCatalogue(site.store, site.services.catalogue, clock=site.clock)
    return TempAreas(site.store, site.services.files, known, clock=site.clock, limits=limits)


async def put(site: Site, path: str, data: bytes = b"12345") -> None:
    upload = await site.services.files.upload(ADMIN, path)
    await upload.write(data)
    await upload.commit()


def left(site: Site) -> list[str]:
    """What lies in the areas."""
    root = site.settings.files_path
    return sorted(
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and not path.relative_to(root).parts[0].startswith(".")
    )


@pytest.fixture
async def dataset(site: Site):
    """Two jobs, the first of them complete, each with files."""
    await site.services.files.open()
    dataset = await site.submit(task("only"), njobs=2)
    pilot = await site.pilot()
    await site.finish(pilot, await site.one(pilot))
    await put(site, f"job_temp/{dataset.dataset_id}/0/a/deep")
    await put(site, f"job_temp/{dataset.dataset_id}/0/b")
    await put(site, f"job_temp/{dataset.dataset_id}/1/a")
    await put(site, f"dataset_temp/{dataset.dataset_id}/all")
    await put(site, "site_temp/shared")
    return dataset.dataset_id


async def test_files_of_a_complete_job_go_when_they_were_kept_for_long_enough(site: Site, dataset: str):
    areas = areas_of(site)

    site.advance(HOUR - 1)
    early = await areas.clean()
    site.advance(2)
    gone = await areas.clean()

    assert early == []
    assert [(each.path, each.files, each.size_bytes) for each in gone] == [(f"job_temp/{dataset}/0", 2, 10)]
    assert left(site) == [f"dataset_temp/{dataset}/all", f"job_temp/{dataset}/1/a", "site_temp/shared"]


async def test_a_trial_tells_what_would_go_and_deletes_nothing(site: Site, dataset: str):
    before = left(site)
    site.advance(2 * HOUR)

    told = await areas_of(site).clean(is_trial=True)

    assert [(each.path, each.reason) for each in told] == [(f"job_temp/{dataset}/0", "the job is complete")]
    assert left(site) == before


async def test_files_of_a_complete_dataset_go_all_at_once(site: Site, dataset: str):
    await site.run_all(await site.pilot())
    site.advance(25 * HOUR)

    gone = await areas_of(site).clean()

    assert [each.path for each in gone] == [f"job_temp/{dataset}", f"dataset_temp/{dataset}"]
    assert left(site) == ["site_temp/shared"]


async def test_files_of_a_dataset_that_was_reset_stay(site: Site, dataset: str):
    await site.services.datasets.hard_reset(ADMIN, dataset)
    site.advance(100 * HOUR)

    assert await areas_of(site).clean() == []


async def test_what_belongs_to_no_dataset_of_this_site_stays(site: Site, dataset: str):
    foreign = site.settings.files_path / "job_temp" / "elsewhere" / "0" / "x"
    odd = site.settings.files_path / "job_temp" / dataset / "notes" / "x"
    for path in (foreign, odd):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"1")
    site.advance(2 * HOUR)

    await areas_of(site).clean()

    assert (foreign.exists(), odd.exists()) == (True, True)


async def test_files_of_the_site_go_only_where_a_time_was_set(site: Site, dataset: str):
    path = site.settings.files_path / "site_temp" / "shared"
    os.utime(path, (site.clock(), site.clock()))
    site.advance(3 * HOUR)

    kept = await areas_of(site).clean()
    gone = await areas_of(site, TempLimits(1e9, 1e9, site_keep_s=2 * HOUR)).clean()

    assert [each.path for each in kept] == [f"job_temp/{dataset}/0"]
    assert [each.path for each in gone] == ["site_temp/shared"]


async def test_the_catalogue_forgets_what_lay_here_alone(site: Site, dataset: str):
    for name, elsewhere in (("job_temp/0/b", False), ("job_temp/0/a/deep", True), ("job_temp/1/a", False)):
        area, _, rest = name.partition("/")
        places = (here(f"{area}/{dataset}/{rest}"), *(["gsiftp://a.org/x"] if elsewhere else []))
        replicas = tuple(Replica(place, "", 1.0) for place in places)
        sums = {"sha256": "0" * 64}
        record = FileRecord(dataset, name, 5, sums, "alice", "users", 1.0, replicas=replicas)
        await site.store.files.put([record])
    site.advance(2 * HOUR)

    await areas_of(site).clean()

    assert await site.store.files.get(dataset, "job_temp/0/b") is None
    kept = await site.store.files.get(dataset, "job_temp/0/a/deep")
    assert [replica.url for replica in kept.replicas] == ["gsiftp://a.org/x"]
    assert await site.store.files.get(dataset, "job_temp/1/a") is not None


async def test_a_link_is_deleted_and_not_followed(site: Site, dataset: str, tmp_path: Path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"x")
    (site.settings.files_path / "job_temp" / dataset / "0" / "link").symlink_to(outside)
    site.advance(2 * HOUR)

    await areas_of(site).clean()

    assert (outside / "precious").exists()
    assert not (site.settings.files_path / "job_temp" / dataset / "0").exists()


async def test_what_a_crash_left_of_a_deletion_goes_with_other_leftovers(site: Site, dataset: str):
    incoming = site.settings.files_path / ".incoming"
    grave = incoming / "gone-1" / "deep"
    grave.mkdir(parents=True)
    (grave / "x").write_bytes(b"1")

    count = await site.services.files.clean(before=site.clock() + 1e9)

    assert count == 1
    assert list(incoming.iterdir()) == []


async def test_digests_of_deleted_files_are_forgotten(site: Site, dataset: str):
    sweep = Sweep(site.services.files.tree)
    digests = [path for path in (site.settings.files_path / ".digests").rglob("*") if path.is_file()]

    sweep.remove(("job_temp", dataset))
    remaining = [path for path in (site.settings.files_path / ".digests").rglob("*") if path.is_file()]

    assert (len(digests), len(remaining)) == (5, 2)
