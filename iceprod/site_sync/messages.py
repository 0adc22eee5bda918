"""What sites say to each other, version 2.

Each method has one parameter ``message``, and one answer, of the types below.  Fields that
are not known are passed over, and those that are missing have their defaults: so a newer
version may add, and an older one need not know.  What can't be said that way raises
`PROTOCOL`; two sites speak the highest version that both know (`Hello`).

Times are told as spans, never as instants: no clocks are compared.

Version 2 has terms (`iceprod.site_sync.terms`) and ``site.reclaim``.  A child that speaks it tells
in each message the parent's ``term`` in which it is said; one that speaks version 1 tells none.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from iceprod.model.federation import OperationKind

PROTOCOLS: Final = (1, 2)
"""The versions that this release speaks."""

FIRST_WITH_TERMS: Final = 2
"""The first version that has terms."""
MOST_LEASES: Final = 50_000
MOST_OPERATIONS: Final = 1000
MOST_TASKS: Final = 1000
MOST_NEAR: Final = 1000
"""Of one message."""

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
Id = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
Index = Annotated[int, msgspec.Meta(ge=0, lt=2**53)]
Amount = Annotated[float, msgspec.Meta(ge=0, le=1e9)]
Wait = Annotated[float, msgspec.Meta(ge=0, le=60)]


class Introduction(msgspec.Struct, frozen=True):
    """``site.authority``, which has no message: who answers, and who vouches for it (PEM).

    Whoever asks has to compare the latter with what it knows, unless the connection is safe.
    """

    site: Name
    protocols: list[int]
    authority: str = ""


class Join(msgspec.Struct, frozen=True, omit_defaults=True):
    """``site.join``: a site that was invited shows its code, and a request for a certificate.

    With a ``certificate`` of its own, which it has shown in the connection, it needs none.
    """

    code: Annotated[str, msgspec.Meta(max_length=200)]
    protocols: list[int]
    csr: Annotated[str, msgspec.Meta(max_length=16_384)] = ""
    certificate: Annotated[str, msgspec.Meta(max_length=65_536)] = ""
    version: str = ""


class Joined(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer: what the child is called here, who the parent is, and how to be known from now on.

    ``authority`` (PEM) vouches for the parent's own certificate.  A ``token`` has who joins
    without a certificate.
    """

    name: Name
    site: Name
    protocol: int
    lease_s: float
    version: str = ""
    certificate: str = ""
    authority: str = ""
    token: str = ""


class Certify(msgspec.Struct, frozen=True):
    """``site.renew_certificate``: a request for a certificate of a new key."""

    csr: Annotated[str, msgspec.Meta(max_length=16_384)]


class Certified(msgspec.Struct, frozen=True):
    """The answer; ``authority`` (PEM) vouches for the parent's own certificate from now on."""

    certificate: str
    authority: str


class Nothing(msgspec.Struct, frozen=True):
    """Of what is said without a word more, and of answers that only say that it was heard."""


class Shape(msgspec.Struct, frozen=True, omit_defaults=True):
    """Slots of one kind: what one task may use (cores, GPUs, GB, GB, hours), and how many tasks more."""

    cpu: Amount = 0.0
    gpu: Amount = 0.0
    memory: Amount = 0.0
    disk: Amount = 0.0
    time: Amount = 0.0
    os: str = ""
    tasks: Annotated[int, msgspec.Meta(ge=0, le=MOST_TASKS)] = 0


class Hello(msgspec.Struct, frozen=True):
    """``site.hello``: a child tells what it is."""

    protocols: list[int]
    version: str = ""


class Welcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer: who the parent is, the version to speak, for how long leases last, and its term."""

    site: str
    protocol: int
    lease_s: float
    version: str = ""
    term: int = 0


class Pull(msgspec.Struct, frozen=True):
    """``site.pull``: what the child could begin with now; waits up to ``wait_s`` for something that fits.

    ``near`` are jobs (dataset id, index) of which it has files: it would run their tasks with less to do.
    """

    shapes: Annotated[list[Shape], msgspec.Meta(max_length=64)]
    wait_s: Wait = 0.0
    held: int = 0  # errands that are open, for the parent's table
    term: int | None = None
    near: Annotated[list[tuple[Id, Index]], msgspec.Meta(max_length=MOST_NEAR)] = []


class Lent(msgspec.Struct, frozen=True, omit_defaults=True):
    """A task that is lent.

    ``original_*`` is what it is called where its dataset was made.  ``token`` opens the files of
    its job at the parent.
    """

    task_id: Id
    lease_id: Id
    token: str
    dataset_id: Id
    config_version: int
    original_dataset_id: Id
    original_dataset: int
    original_task_id: Id
    job: int
    task_index: int
    name: str
    jobs_submitted: int
    requirements: Shape
    site: str = ""  # that its requirements name
    os: list[str] = []
    debug: bool = False


class Pulled(msgspec.Struct, frozen=True):
    """The answer: tasks with leases of ``lease_s`` each; with none, when to ask again."""

    tasks: list[Lent]
    lease_s: float
    retry_after_s: float = 0.0


class About(msgspec.Struct, frozen=True):
    """``site.dataset``: a child asks about a dataset of which it holds tasks."""

    dataset_id: Id
    config_version: int | None = None  # with the configuration of that version
    term: int | None = None


class Told(msgspec.Struct, frozen=True, omit_defaults=True):
    """The answer; ``config`` is the text of the version that was asked for."""

    dataset_id: str
    owner: str
    group: str
    config_version: int
    description: str = ""
    priority: float = 0.5
    debug: bool = False
    config: str | None = None


class Renew(msgspec.Struct, frozen=True):
    """``site.renew``: (task id, lease id) of every task that the child holds, or of some of them.

    With ``is_all`` the parent takes back what the child does not name, unless it was lent
    only now: the answer may be on its way.  With ``is_settled``, that too: the child waits for no
    answer, and does not know of it.
    """

    leases: Annotated[list[tuple[Id, Id]], msgspec.Meta(max_length=MOST_LEASES)]
    is_all: bool = False
    is_settled: bool = False
    term: int | None = None


class Renewed(msgspec.Struct, frozen=True):
    """The answer: the leases that are the child's no longer."""

    lost: list[str]


class Listen(msgspec.Struct, frozen=True):
    """``site.listen``: wait up to ``wait_s`` for something that concerns the child's tasks."""

    wait_s: Wait = 0.0
    term: int | None = None


class Heard(msgspec.Struct, frozen=True):
    """The answer: whether tasks of the child were taken away (it renews then), and changed datasets."""

    taken: bool
    datasets: list[str]


class Statement(msgspec.Struct, frozen=True, omit_defaults=True):
    """One operation: `iceprod.model.federation.Operation`; ``age_s`` is how long ago it happened.

    Bodies by kind: ``started`` {hostname}; ``log`` {name, data: base64 of zlib};
    ``finished`` {stats: as of `pilot.finish`}; ``failed`` {error: as of `pilot.fail`};
    ``returned`` {reason}.  A ``file`` is sent to the parent's file store and then not stated here.
    """

    id: Id
    kind: OperationKind
    task_id: Id
    lease_id: Id
    age_s: float = 0.0
    body: dict[str, Any] = {}


class Report(msgspec.Struct, frozen=True):
    """``site.report``: operations in order, and how many wait behind them and since when."""

    operations: Annotated[list[Statement], msgspec.Meta(max_length=MOST_OPERATIONS)]
    waiting: int = 0
    lag_s: float = 0.0
    dead: int = 0
    term: int | None = None


class Outcome(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of one operation.

    ``applied``; ``repeated``, it was applied before; ``lost``, its lease is over and it was not
    applied; ``refused``, it makes no sense and never will, for ``reason``.
    """

    id: str
    result: str
    reason: str = ""


class Reported(msgspec.Struct, frozen=True):
    """The answer, in the order of the operations."""

    outcomes: list[Outcome]


class Reclaim(msgspec.Struct, frozen=True):
    """``site.reclaim``: (task id, lease id) of what the child holds, and of what has ended well.

    That is said when the parent's term is a new one, in as many messages as it takes.  Whatever was
    lent may be named, also if the parent has taken its end in; ``is_last`` when nothing more is to come.
    """

    leases: Annotated[list[tuple[Id, Id]], msgspec.Meta(max_length=MOST_LEASES)]
    term: int
    is_last: bool = False


class Reclaimed(msgspec.Struct, frozen=True):
    """The answer: the leases that the child holds, and those about which it may ask again.

    What is ``held`` is to be reported as if nothing had been.  If nothing changes for
    ``patience_s`` about what is to be asked ``later``, it is lost, as is the rest.
    """

    held: list[str]
    later: list[str] = []
    patience_s: float = 0.0
