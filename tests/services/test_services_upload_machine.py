"""Random histories of uploads do what a naive model says, whatever process is at them."""

from __future__ import annotations

import asyncio
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from site_harness import ADMIN, open_site
from upload_harness import Bench, open_bench, sha256

from iceprod.errors import ConflictError, IceProdError, InputError, NotFoundError, TooLarge
from iceprod.services.uploads.values import Announced, Part, Stage
from iceprod.services.uploads.writing import Proof

CONTENT = bytes(range(256)) * 4
EXPIRE_S = 100.0

_which = st.integers(0, 3)
_size = st.integers(0, 300)
steps_of_histories = st.one_of(
    st.tuples(st.just("create"), st.tuples(_size, st.booleans(), st.booleans())),
    st.tuples(st.just("create"), st.tuples(_size, st.booleans(), st.booleans())),
    *[st.tuples(st.just("append"), st.tuples(_which, _size, st.sampled_from(("", "right", "wrong"))))] * 4,
    st.tuples(st.just("append_elsewhere"), st.tuples(_which, st.integers(-5, 5))),
    st.tuples(st.just("break_off"), st.tuples(_which, _size)),
    st.tuples(st.just("crash"), st.tuples(_which, _size, st.integers(0, 50))),
    st.tuples(st.just("join"), st.tuples(st.lists(_which, min_size=1, max_size=3))),
    st.tuples(st.just("cancel"), st.tuples(_which)),
    st.tuples(st.just("wait"), st.tuples(st.sampled_from((1.0, 60.0, EXPIRE_S)))),
    st.tuples(st.just("look_after"), st.tuples()),
)


@dataclass
class Expected:
    """What an upload should be; ``counts`` bytes of it are safe."""

    upload_id: str
    name: str
    data: bytes
    is_piece: bool
    moved_at: float
    counts: int = 0
    is_stored: bool = False
    is_gone: bool = False

    def is_whole(self) -> bool:
        return self.counts == len(self.data)


@dataclass
class World:
    """Processes that take turns at the same uploads, and what should come of it."""

    bench: Bench
    uploads: list[Expected] = field(default_factory=list)
    files: dict[str, bytes] = field(default_factory=dict)
    turns: int = 0

    @property
    def now(self) -> float:
        return self.bench.site.clock()

    def pick(self, which: int) -> Expected | None:
        return self.uploads[which % len(self.uploads)] if self.uploads else None

    def is_over(self, upload: Expected) -> bool:
        is_rusty = not upload.is_stored and self.now >= upload.moved_at + EXPIRE_S
        return upload.is_gone or is_rusty

    def put(self, upload: Expected) -> None:
        if upload.is_whole() and not upload.is_piece and not upload.is_stored:
            upload.is_stored = True
            self.files[upload.name] = upload.data

    async def do(self, step: str, given: tuple[Any, ...]) -> None:
        self.turns += 1
        await getattr(self, f"_{step}")(*given)
        await self.compare()

    async def _create(self, size: int, is_piece: bool, has_checksum: bool) -> None:
        name, data = f"f{len(self.uploads)}", CONTENT[:size]
        announced = Announced(
            target="" if is_piece else f"site_temp/{name}",
            length=size,
            checksums={"sha256": sha256(data)} if has_checksum else {},
            part=Part.PARTIAL if is_piece else Part.NONE,
        )
        begun = await self.bench.uploads.service.create(ADMIN, announced)
        made = Expected(begun.view.upload_id, name, data, is_piece, self.now)
        self.uploads.append(made)
        self.put(made)

    async def _append(self, which: int, size: int, proof: str) -> None:
        upload = self.pick(which)
        if upload is None:
            return
        part = upload.data[upload.counts : upload.counts + size]
        given = {"": None, "right": part, "wrong": part + b"!"}[proof]
        shown = None if given is None else Proof("sha256", bytes.fromhex(sha256(given)))
        try:
            await self.bench.append(upload.upload_id, upload.counts, part, proof=shown)
        except NotFoundError:
            assert self.is_over(upload)
        except ConflictError:
            assert upload.is_stored
        except InputError:
            assert proof == "wrong"
        else:
            assert proof != "wrong"
            assert not self.is_over(upload)
            self._came(upload, len(part))

    def _came(self, upload: Expected, size: int) -> None:
        upload.counts += size
        upload.moved_at = self.now
        self.put(upload)

    async def _append_elsewhere(self, which: int, by: int) -> None:
        upload = self.pick(which)
        if upload is None or by == 0 or upload.counts + by < 0:
            return
        try:
            await self.bench.append(upload.upload_id, upload.counts + by, b"x")
        except (ConflictError, NotFoundError, TooLarge):
            return
        raise AssertionError("it was taken")

    async def _break_off(self, which: int, size: int) -> None:
        upload = self.pick(which)
        writing = None if upload is None else await self._writing(upload)
        if upload is None or writing is None:
            return
        part = upload.data[upload.counts : upload.counts + size]
        await writing.write(part)
        await self.bench.uploads.service.break_off(writing, "gone")
        # A client that went away before it heard is told later that all is there.
        upload.counts += len(part)
        upload.moved_at = self.now

    async def _crash(self, which: int, size: int, torn: int) -> None:
        """A process ends in the middle of a request; the disk has some bytes that were not synced."""
        upload = self.pick(which)
        writing = None if upload is None else await self._writing(upload)
        if upload is None or writing is None:
            return
        await writing.write(upload.data[upload.counts : upload.counts + size])
        with writing.held.data_path.open("ab") as file:
            file.write(b"\0" * torn)
        writing.held.release()  # the system does so with what a dead process has locked
        self.bench = await self.bench.again()

    async def _writing(self, upload: Expected) -> Any:
        try:
            return await self.bench.uploads.service.begin(
                ADMIN, upload.upload_id, offset=upload.counts, size=None
            )
        except (NotFoundError, ConflictError):
            assert upload.is_stored or self.is_over(upload)
            return None

    async def _join(self, which: list[int]) -> None:
        picked = [self.pick(each) for each in which]
        if None in picked:
            return
        parts = [each for each in picked if each is not None]
        name = f"joined{self.turns}"
        data = b"".join(each.data for each in parts)
        right = all(each.is_piece and each.is_whole() and not self.is_over(each) for each in parts)
        right = right and len({each.upload_id for each in parts}) == len(parts)
        announced = Announced(f"site_temp/{name}", None, {"sha256": sha256(data)}, part=Part.FINAL)
        ids = [each.upload_id for each in parts]
        try:
            await self.bench.uploads.joining.join(ADMIN, announced, ids)
        except IceProdError:
            assert not right
            return
        assert right
        self.files[name] = data
        for each in parts:
            each.is_gone = True

    async def _cancel(self, which: int) -> None:
        upload = self.pick(which)
        if upload is None:
            return
        try:
            await self.bench.uploads.service.cancel(ADMIN, upload.upload_id)
        except NotFoundError:
            assert upload.is_stored or self.is_over(upload)
        upload.is_gone = True

    async def _wait(self, seconds: float) -> None:
        self.bench.site.advance(seconds)

    async def _look_after(self) -> None:
        await self.bench.uploads.keeper.look_after()
        await self.bench.uploads.keeper.forget()
        for upload in self.uploads:
            if not upload.is_gone:
                self.put(upload)  # also of one that nobody asked about until it was too late to go on

    async def compare(self) -> None:
        """Files are those of the model and no others; uploads are as far as it says."""
        folder = self.bench.site.settings.files_path / "site_temp"
        found = {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}
        assert found == self.files
        for upload in self.uploads:
            if self.is_over(upload) or upload.is_stored:
                continue
            view = await self.bench.status(upload.upload_id)
            assert view.offset == upload.counts
            self.put(upload)  # being asked about brings it to its end
            assert (view.stage is Stage.STORED) == upload.is_stored


@settings(max_examples=40, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(steps_of_histories, min_size=5, max_size=40))
def test_random_histories(steps):
    async def play() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with (
                open_site(Path(folder)) as site,
                open_bench(site, Path(folder) / "uploads", expire_s=EXPIRE_S, most_open=1000) as bench,
            ):
                world = World(bench)
                for step, given in steps:
                    await world.do(step, given)

    asyncio.run(play())
