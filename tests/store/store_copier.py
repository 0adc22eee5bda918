"""A process that copies a SQLite store and stops for ever in the midst of it.

Started by ``test_store_copying.py``, which kills it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from iceprod.config import load
from iceprod.server import stores
from iceprod.store.archive import Kind, Record
from iceprod.store.copying import copy


async def main() -> None:
    """Copy argument 1 into argument 2; stop after the write number argument 3."""
    source, target, last = sys.argv[1:]
    settings = load(overrides={"server": {"data_dir": Path(source.removeprefix("sqlite:///")).parent}})
    async with (
        stores.opened(stores.at(settings, source)) as reading,
        stores.opened(stores.at(settings, target)) as writing,
    ):
        inner, written = writing.archive.write, 0

        async def write(kind: Kind, records: Sequence[Record]) -> None:
            nonlocal written
            await inner(kind, records)
            written += 1
            if written == int(last):
                sys.stdout.write("stopped\n")
                sys.stdout.flush()
                await asyncio.Event().wait()

        writing.archive.write = write  # type: ignore[method-assign]
        await copy(reading.archive, writing.archive)


asyncio.run(main())
