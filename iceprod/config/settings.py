"""What can be set, with types, defaults, bounds and the text of the reference page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=366 * 86400)]
Delay = Annotated[float, Field(ge=0, le=366 * 86400)]
Count = Annotated[int, Field(ge=1)]
Amount = Annotated[float, Field(ge=0)]
Address = Annotated[str, Field(pattern=r"^$|^https?://[^\s]+$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ServerSettings(_Section):
    """Where the server listens and where it keeps its things."""

    host: str = "127.0.0.1"
    """Address to listen on; put nginx in front before opening it to a network."""
    port: Port = 8080
    """Port of pages, files, events and JSON-RPC; 0 takes any free one."""
    rpc_port: Port = 8081
    """Port of the JSON-RPC fast lane; 0 takes any free one."""
    rpc_lane: bool = True
    """Whether the fast lane is opened; `port` answers JSON-RPC in any case."""
    url: Address = ""
    """The address by which users reach the server, if it is not `http://host:port`."""
    rpc_url: Address = ""
    """The address by which pilots reach JSON-RPC, if it is not that of the fast lane."""
    data_dir: Path = Path("~/.iceprod")
    """Directory of the database, the files and the first administrator's password."""
    proxied: bool = False
    """Whether a proxy in front sets X-Real-IP and X-Forwarded-Proto, and only it can connect."""
    drain_s: Delay = 10.0
    """How long requests that are being answered may take to end when the server stops."""
    max_form_bytes: Count = 16 * 1024 * 1024
    """Largest form or JSON-RPC message taken; files have their own limit."""


class StoreSettings(_Section):
    """The datastore."""

    url: Annotated[str, Field(pattern=r"^$|^sqlite:///.+$|^mongodb(\+srv)?://.+$")] = ""
    """`sqlite:///PATH`, or `mongodb://HOST[:PORT]/DATABASE`; if empty, `iceprod.db` in the data directory."""
    synchronous: Literal["full", "normal"] = "full"
    """SQLite: `full` survives a power cut without loss; `normal` may lose the last moments."""


class RpcSettings(_Section):
    """Limits of JSON-RPC messages."""

    max_message_bytes: Count = 16 * 1024 * 1024
    """Longest message taken."""
    max_answer_bytes: Count = 64 * 1024 * 1024
    """Longest results of one message."""
    max_batch: Count = 1000
    """Most calls in one batch."""
    max_depth: Annotated[int, Field(ge=2, le=500)] = 64
    """Deepest nesting of arrays and objects."""
    public_reports: bool = True
    """Whether the `public_get_…` methods answer callers without a credential."""


class AccountSettings(_Section):
    """Users and their sessions."""

    session_h: Annotated[float, Field(gt=0, le=24 * 366)] = 7 * 24.0
    """How long a session lasts after signing in, in hours."""
    shortest_password: Annotated[int, Field(ge=8, le=256)] = 10
    """Fewest characters of a new password."""
    hash_memory_kib: Annotated[int, Field(ge=8, le=4 * 1024 * 1024)] = 65536
    """Memory that hashing one password takes (Argon2id), in KiB."""
    hash_rounds: Annotated[int, Field(ge=1, le=100)] = 3
    """Rounds of hashing a password."""


class ShareSettings(_Section):
    """Who was promised how much: plain weights, 1 for whoever is not named."""

    groups: dict[str, Amount] = {}
    """Weight of each group among the groups."""
    users: dict[str, dict[str, Amount]] = {}
    """For each group the weights of its users among themselves."""


class SchedulingSettings(_Section):
    """Handing out work."""

    lease_s: Seconds = 300.0
    """How long a pilot holds a task without being heard of."""
    heartbeat_s: Seconds = 60.0
    """How often pilots are asked to report."""
    long_poll_max_s: Annotated[float, Field(ge=0, le=60)] = 60.0
    """Longest time that a claim waits for work."""
    buffer_tasks: Count = 2000
    """Unfinished tasks that are kept made per dataset."""
    share_half_life_h: Seconds = 24.0
    """After how many hours used resources count half in fair share."""
    ageing_h: Seconds = 24.0
    """After how many hours of waiting a class of tasks outranks any share."""
    shares: ShareSettings = ShareSettings()
    """The tree of shares."""


class FailureRuleSettings(_Section):
    """A class of failures; conditions that are left out always hold."""

    name: str = Field(min_length=1, max_length=40)
    """Name of the class, shown with each failure."""
    kinds: tuple[Literal["exit", "signal", "overuse", "transfer", "config", "internal"], ...] = ()
    """What the pilot saw."""
    exit_codes: tuple[int, ...] = ()
    """Exit codes of the program."""
    signals: tuple[int, ...] = ()
    """Signals that ended the program."""
    phrases: tuple[str, ...] = ()
    """Texts, one of which occurs in the summary or the end of stderr."""
    limit: Count = 3
    """Failures of this class that end the task."""
    backoff_s: Delay = 0.0
    """Wait after the first failure."""
    backoff_factor: Annotated[float, Field(ge=1, le=100)] = 2.0
    """By what the wait grows with each further failure."""
    backoff_max_s: Delay = 3600.0
    """Longest wait."""


class FailureSettings(_Section):
    """What failures are tried again."""

    rules: tuple[FailureRuleSettings, ...] = ()
    """Rules asked in order before the built-in ones; the first that matches names the class."""


class GridSettings(_Section):
    """One grid: where pilots are started, and what each of them may get.

    Resources are the largest slot of one pilot, on the local grid also what its pilots get
    together; the grid finds out what is left unset.
    """

    kind: Annotated[str, Field(min_length=1)] = "local"
    """The batch system; `local` starts pilots as processes of this machine."""
    cpu: Amount | None = None
    """Cores."""
    gpu: Amount | None = None
    """GPUs."""
    memory: Amount | None = None
    """Memory in GB."""
    disk: Amount | None = None
    """Disk in GB."""
    time: Amount = 24.0
    """Hours that one pilot may last."""
    os: str = ""
    """What its nodes are, for tasks that ask for one."""
    site: str = ""
    """Where its nodes are, for tasks that ask for a site."""
    max_pilots: Annotated[int, Field(ge=0)] = 10
    """Most pilots at a time."""
    max_queued: Annotated[int, Field(ge=0)] = 5
    """Most pilots that wait for their start."""
    idle_s: Seconds = 60.0
    """After how long without work a pilot ends."""
    options: dict[str, str] = {}
    """What only one kind of batch system knows, like a partition or an account."""


class PageSettings(_Section):
    """The web pages."""

    site_name: Annotated[str, Field(min_length=1, max_length=60)] = "IceProd"
    """Name in the title of every page."""
    rows: Annotated[int, Field(ge=10, le=500)] = 50
    """Rows of a table on one page."""
    max_streams: Count = 2000
    """Most live connections (server-sent events) at a time."""


class FileSettings(_Section):
    """The file store for the temp areas of datasets."""

    path: Path | None = None
    """Directory of the files; `files` in the data directory if unset."""
    max_bytes: Count = 100 * 10**9
    """Largest file taken."""
    keep_free_bytes: Annotated[int, Field(ge=0)] = 10**8
    """Space on the disk that uploads leave free."""


class LogSettings(_Section):
    """The log, written to standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe events that are written."""
    format: Literal["auto", "text", "json"] = "auto"
    """`text` for people, `json` for machines (one object per line); `auto` is text on a terminal."""
    access: bool = True
    """Whether each HTTP request is written."""


class Settings(BaseSettings):
    """All settings of a server."""

    model_config = SettingsConfigDict(
        env_prefix="ICEPROD_",
        env_nested_delimiter="__",
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    server: ServerSettings = ServerSettings()
    store: StoreSettings = StoreSettings()
    rpc: RpcSettings = RpcSettings()
    accounts: AccountSettings = AccountSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    failures: FailureSettings = FailureSettings()
    grids: dict[str, GridSettings] = {"local": GridSettings()}
    pages: PageSettings = PageSettings()
    files: FileSettings = FileSettings()
    log: LogSettings = LogSettings()

    @property
    def data_dir(self) -> Path:
        """The data directory as an absolute path."""
        return self.server.data_dir.expanduser().absolute()

    @property
    def store_path(self) -> Path | None:
        """The database's file as an absolute path; None if the store is a server of its own."""
        if self.store.url.startswith("mongodb"):
            return None
        given = self.store.url.removeprefix("sqlite:///")
        return (Path(given) if given else self.data_dir / "iceprod.db").expanduser().absolute()

    @property
    def files_path(self) -> Path:
        """The directory of stored files as an absolute path."""
        return (self.files.path or self.data_dir / "files").expanduser().absolute()
