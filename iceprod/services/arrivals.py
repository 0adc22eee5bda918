"""Notes of files between their places and the catalogue.

A file is put in its place and then registered.  A process that is killed between the two leaves
a note that was written before either, by which another one makes up for it.  Blocks, as the
tree does.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from iceprod import ids
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.services.filestore import told


class _Note(msgspec.Struct, frozen=True, omit_defaults=True):
    names: tuple[str, ...]
    kind: PrincipalKind
    caller: str
    lease_id: str = ""


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that was about to be put in its place, and who brought it; ``note`` says so."""

    note: Path
    names: tuple[str, ...]
    principal: Principal


class Arrivals:
    """The notes, each a small file in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def note(self, names: Sequence[str], principal: Principal) -> Path:
        """Write down that a file is about to be put in its place; remove what you get when it is known.

        Raises:
            Unavailable: the disk is full.
        """
        said = _Note(tuple(names), principal.kind, principal.id, principal.lease_id)
        note = self._folder / ids.new_id()
        with told():
            try:
                note.write_bytes(msgspec.json.encode(said))
            except BaseException:
                note.unlink(missing_ok=True)
                raise
        return note

    def left(self, *, before: float) -> list[Arrival]:
        """What was noted before that instant; notes that were cut short are removed."""
        return [found for note in self._folder.iterdir() if (found := _read(note, before)) is not None]


def _read(note: Path, before: float) -> Arrival | None:
    try:
        if note.stat().st_mtime >= before:
            return None
        said = msgspec.json.decode(note.read_bytes(), type=_Note)
    except FileNotFoundError:  # it has become known at this moment
        return None
    except msgspec.DecodeError:  # the disk was full, or the machine went down: nothing was put anywhere
        with suppress(FileNotFoundError):
            note.unlink()
        return None
    return Arrival(note, said.names, Principal(said.kind, said.caller, lease_id=said.lease_id))
