"""Copies in a file tree: what happens to one, happens to nothing that has come in its place."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from iceprod.services.copies import Copies
from iceprod.services.filestore import FileFacts, FileTree

NAMES = ("dataset_temp", "d", "x")


@pytest.fixture
def tree(tmp_path: Path) -> FileTree:
    made = FileTree(tmp_path)
    made.open()
    return made


@pytest.fixture
def copies(tree: FileTree) -> Copies:
    return Copies(tree)


def drafted(tree: FileTree, data: bytes):
    draft = tree.begin()
    draft.write(data)
    return draft


def stored(tree: FileTree, data: bytes, names=NAMES) -> None:
    """Put a file there as a task does."""
    drafted(tree, data).commit(names)


def copied(tree: FileTree, copies: Copies, data: bytes, *, instead_of: FileFacts | None = None) -> bool:
    draft = drafted(tree, data)
    try:
        return copies.put(draft, NAMES, instead_of=instead_of)
    finally:
        draft.discard()


def there(tree: FileTree, names=NAMES) -> bytes:
    opened = tree.read(names)
    try:
        return opened.read(0, 1000)
    finally:
        opened.close()


def leftovers(tree: FileTree) -> list[Path]:
    return list(tree.incoming.iterdir())


def test_a_copy_is_known_as_one_with_its_digest(tree: FileTree, copies: Copies):
    assert copied(tree, copies, b"muons")

    found = copies.facts(NAMES)

    assert found is not None
    assert (found.is_copy, found.digest, found.size_bytes) == (True, hashlib.sha256(b"muons").digest(), 5)
    assert leftovers(tree) == []


def test_what_a_task_stores_is_no_copy_even_in_the_place_of_one(tree: FileTree, copies: Copies):
    copied(tree, copies, b"muons")

    stored(tree, b"electrons")

    found = copies.facts(NAMES)
    assert found is not None
    assert not found.is_copy


def test_a_copy_takes_the_place_of_nothing_else(tree: FileTree, copies: Copies):
    stored(tree, b"electrons")

    assert not copied(tree, copies, b"muons")
    assert there(tree) == b"electrons"
    assert copies.facts(NAMES) is not None
    assert leftovers(tree) == []


def test_a_newer_copy_takes_the_place_of_the_one_that_it_is_newer_than(tree: FileTree, copies: Copies):
    copied(tree, copies, b"old")

    assert copied(tree, copies, b"new", instead_of=copies.facts(NAMES))
    assert there(tree) == b"new"
    assert leftovers(tree) == []


def test_what_has_taken_the_place_of_a_copy_meanwhile_stays(tree: FileTree, copies: Copies):
    copied(tree, copies, b"old")
    former = copies.facts(NAMES)
    stored(tree, b"electrons")

    assert former is not None
    assert not copied(tree, copies, b"new", instead_of=former)
    assert not copies.remove(NAMES, former)
    assert not copies.mark(NAMES, former)
    assert there(tree) == b"electrons"
    found = copies.facts(NAMES)
    assert found is not None
    assert not found.is_copy
    assert leftovers(tree) == []


def test_what_was_stored_becomes_a_copy_when_it_is_elsewhere(tree: FileTree, copies: Copies):
    stored(tree, b"muons")
    found = copies.facts(NAMES)

    assert found is not None
    assert copies.mark(NAMES, found)

    assert copies.facts(NAMES) == FileFacts(
        found.size_bytes, found.modified_at, found.digest, found.identity, is_copy=True
    )


def test_a_copy_goes(tree: FileTree, copies: Copies):
    copied(tree, copies, b"muons")
    found = copies.facts(NAMES)

    assert found is not None
    assert copies.remove(NAMES, found)
    assert copies.facts(NAMES) is None
    assert not copies.remove(NAMES, found)
    assert leftovers(tree) == []


def test_the_same_bytes_get_another_name_without_being_copied(tree: FileTree, copies: Copies):
    other = ("job_temp", "d", "1", "x")
    stored(tree, b"muons", other)
    digest = hashlib.sha256(b"muons").digest()

    twin = copies.same(other, digest)
    assert twin is not None
    assert copies.put(twin, NAMES)
    twin.discard()

    assert there(tree) == b"muons"
    one, two = copies.facts(NAMES), copies.facts(other)
    assert one is not None
    assert two is not None
    assert (one.is_copy, two.is_copy, one.identity) == (True, False, two.identity)
    tree.delete(other)
    assert there(tree) == b"muons"
    assert leftovers(tree) == []


def test_other_bytes_are_not_the_same(tree: FileTree, copies: Copies):
    stored(tree, b"muons")

    assert copies.same(NAMES, hashlib.sha256(b"other").digest()) is None
    assert copies.same(("job_temp", "d", "1", "none"), hashlib.sha256(b"muons").digest()) is None


def test_notes_of_digests_that_make_no_sense_are_read_past(tree: FileTree, copies: Copies):
    copied(tree, copies, b"muons")
    (note,) = [path for path in (tree.incoming.parent / ".digests").rglob("*") if path.is_file()]
    identity = note.read_text().rpartition(" ")[0].rpartition(" ")[0]
    for text in ("", "copy", f"{identity} zz copy", f"{identity} abcd copy", f"{identity}1 {'ab' * 32} copy"):
        note.write_text(text)

        found = copies.facts(NAMES)

        assert found is not None
        assert (found.is_copy, found.digest) == (False, hashlib.sha256(b"muons").digest())


def test_a_copy_on_another_path_than_its_own_is_none(tree: FileTree, copies: Copies):
    copied(tree, copies, b"muons")
    root = tree.incoming.parent
    os.link(root / "dataset_temp" / "d" / "x", root / "dataset_temp" / "d" / "y")

    found = copies.facts(("dataset_temp", "d", "y"))

    assert found is not None
    assert not found.is_copy
