"""What can be set, with types, defaults, bounds and the text of the reference page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from iceprod.config.federation import FederationSettings
from iceprod.config.files import FileSettings
from iceprod.config.sections import (
    Address,
    Amount,
    Count,
    Delay,
    HostPort,
    Port,
    Seconds,
    Section,
    ServerName,
)


class ServerSettings(Section):
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
    processes: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that answer on these ports; more than one need a MongoDB store."""
    duty_ttl_s: Annotated[float, Field(ge=0.3, le=60)] = 3.0
    """After how long a silence of the process that has the background duties another takes them."""
    drain_s: Delay = 10.0
    """How long requests that are being answered may take to end when the server stops."""
    handover_s: Delay = 600.0
    """How long a process that was replaced may keep connections, idle ones and transfers."""
    max_form_bytes: Count = 16 * 1024 * 1024
    """Largest form or JSON-RPC message taken; files have their own limit."""


class TlsSettings(Section):
    """A port of the server's own for TLS, where every client shows a certificate.

    It is for grid proxy certificates (RFC 3820), which nginx refuses.
    """

    port: Port | None = None
    """Port of pages, files and JSON-RPC over TLS; 0 takes any free one, without it there is none."""
    host: str = ""
    """Address to listen on, if not that of the other ports."""
    certificate: Path | None = None
    """The server's certificate and those between it and the authority (PEM)."""
    key: Path | None = None
    """The server's private key (PEM, without a password)."""
    ca_path: Path | None = None
    """Authorities whose client certificates are taken: a PEM file, or a directory of HASH.0 files."""
    crl_path: Path | None = None
    """Lists of revoked certificates, one of every authority: a PEM file, or a directory of HASH.r0 files."""


class StoreSettings(Section):
    """The datastore."""

    url: Annotated[str, Field(pattern=r"^$|^sqlite:///.+$|^mongodb(\+srv)?://.+$", repr=False)] = ""
    """`sqlite:///PATH`, or `mongodb://HOST[:PORT]/DATABASE`; if empty, `iceprod.db` in the data directory."""
    url_file: Path | None = None
    """A file that holds the URL, for one with a password that nobody else should read."""
    synchronous: Literal["full", "normal"] = "full"
    """SQLite: `full` survives a power cut without loss; `normal` may lose the last moments."""
    wait_s: Annotated[float, Field(ge=0, le=86400)] = 60.0
    """MongoDB: how long the server, at its start, waits for one that does not answer, in seconds."""

    @model_validator(mode="before")
    @classmethod
    def _read_url(cls, values: Any) -> Any:
        """Take the URL from its file."""
        if not isinstance(values, dict) or not values.get("url_file"):
            return values
        if values.get("url"):
            raise ValueError("give url or url_file, not both")
        try:
            text = Path(values["url_file"]).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else "it is no text"
            raise ValueError(f"cannot read url_file {values['url_file']}: {reason}") from None
        return {**values, "url": text.strip()}


class RpcSettings(Section):
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


class AccountSettings(Section):
    """Users and their sessions."""

    session_h: Annotated[float, Field(gt=0, le=24 * 366)] = 7 * 24.0
    """How long a session lasts after signing in, in hours."""
    shortest_password: Annotated[int, Field(ge=8, le=256)] = 10
    """Fewest characters of a new password."""
    hash_memory_kib: Annotated[int, Field(ge=8, le=4 * 1024 * 1024)] = 65536
    """Memory that hashing one password takes (Argon2id), in KiB."""
    hash_rounds: Annotated[int, Field(ge=1, le=100)] = 3
    """Rounds of hashing a password."""


class ShareSettings(Section):
    """Who was promised how much: plain weights, 1 for whoever is not named."""

    groups: dict[str, Amount] = {}
    """Weight of each group among the groups."""
    users: dict[str, dict[str, Amount]] = {}
    """For each group the weights of its users among themselves."""


class SchedulingSettings(Section):
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


class FailureRuleSettings(Section):
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


class FailureSettings(Section):
    """What failures are tried again."""

    rules: tuple[FailureRuleSettings, ...] = ()
    """Rules asked in order before the built-in ones; the first that matches names the class."""


class GridSettings(Section):
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


class PageSettings(Section):
    """The web pages."""

    site_name: Annotated[str, Field(min_length=1, max_length=60)] = "IceProd"
    """Name in the title of every page."""
    rows: Annotated[int, Field(ge=10, le=500)] = 50
    """Rows of a table on one page."""
    max_streams: Count = 2000
    """Most live connections (server-sent events) at a time."""


class NginxSettings(Section):
    """nginx in front of the server; `iceprod nginx generate` writes its configuration from this.

    `server.proxied` has to be true with it.
    """

    supervised: bool = False
    """Whether `iceprod serve` runs nginx, too, and starts it again when it dies."""
    program: Annotated[str, Field(pattern=r"^[\w./+-]+$")] = "nginx"
    """The program, by its name or its path."""
    host: Annotated[str, Field(pattern=r"^(\*|[0-9A-Za-z.:-]+)$")] = "0.0.0.0"  # noqa: S104 - it faces the network
    """Address to listen on; `::` for IPv6 and IPv4."""
    https_port: Annotated[int, Field(ge=1, le=65535)] = 443
    """Port for everybody: pages, files, pilots."""
    http_port: Port = 80
    """Port that sends everybody on to https; 0 for none."""
    names: tuple[ServerName, ...] = ()
    """Names of the site; http is sent on to the first. Any name will do if none is given."""
    certificate: Path | None = None
    """Certificate of the site with its chain (PEM)."""
    certificate_key: Path | None = None
    """Key of the certificate (PEM)."""
    client_ca: Path | None = None
    """Certificates (PEM) of the authorities of client certificates; none are asked for if unset."""
    client_crl: Path | None = None
    """Lists of revoked ones (PEM), one of every authority, read when nginx is started or reloaded."""
    directory: Path | None = None
    """Where configuration, temporary files and logs are; `nginx` in the data directory if unset."""
    access_log: Path | None = None
    """One JSON object per request; `logs/access.log` in that directory if unset."""
    upstreams: tuple[HostPort, ...] = ()
    """HOST:PORT of the server's processes that share one store and one file system; the one of `server.port`
    on this machine if none is given."""
    rpc_upstreams: tuple[HostPort, ...] = ()
    """HOST:PORT of their JSON-RPC fast lanes; `server.rpc_port`, or `upstreams` where those are given."""
    workers: Annotated[int, Field(ge=0, le=1024)] = 0
    """Processes of nginx; 0 for one per core."""
    connections: Annotated[int, Field(ge=16, le=1_000_000)] = 16_384
    """Most connections of one of them; a request that waits for the server takes two."""
    rate: Annotated[int, Field(ge=0, le=1_000_000)] = 100
    """Requests per second that one address may make; 0 for any number."""
    burst: Annotated[int, Field(ge=1, le=1_000_000)] = 500
    """How many more than that it may make at once."""
    connections_per_address: Annotated[int, Field(ge=0, le=65535)] = 1000
    """Most requests of one address at a time; 0 for any number."""
    client_timeout_s: Annotated[int, Field(ge=1, le=3600)] = 30
    """How long a client may take for the head of a request, and between two pieces of a body."""
    hsts_s: Annotated[int, Field(ge=0)] = 365 * 86400
    """How long browsers remember to come by https only; 0 to tell them nothing."""
    resolver: tuple[HostPort, ...] = ()
    """Name servers by which nginx finds servers whose files it passes through."""


class LogSettings(Section):
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
    tls: TlsSettings = TlsSettings()
    store: StoreSettings = StoreSettings()
    rpc: RpcSettings = RpcSettings()
    accounts: AccountSettings = AccountSettings()
    scheduling: SchedulingSettings = SchedulingSettings()
    failures: FailureSettings = FailureSettings()
    grids: dict[str, GridSettings] = {"local": GridSettings()}
    pages: PageSettings = PageSettings()
    files: FileSettings = FileSettings()
    nginx: NginxSettings = NginxSettings()
    federation: FederationSettings = FederationSettings()
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
    def nginx_path(self) -> Path:
        """The directory of what nginx needs as an absolute path."""
        return (self.nginx.directory or self.data_dir / "nginx").expanduser().absolute()

    @property
    def files_path(self) -> Path:
        """The directory of stored files as an absolute path."""
        return (self.files.path or self.data_dir / "files").expanduser().absolute()

    @property
    def credential_key_path(self) -> Path:
        """The file of the vault's keys as an absolute path."""
        path = self.files.credential_key_file or self.data_dir / "credentials.key"
        return path.expanduser().absolute()

    @property
    def cache_path(self) -> Path:
        """The directory of copies of origins' files as an absolute path."""
        return (self.files.cache.path or self.data_dir / "cache").expanduser().absolute()

    @property
    def uploads_path(self) -> Path:
        """The directory of uploads that are not complete as an absolute path."""
        return (self.files.uploads.path or self.data_dir / "uploads").expanduser().absolute()

    @property
    def federation_path(self) -> Path:
        """The directory of what this site needs to call its parents as an absolute path."""
        return self.data_dir / "federation"

    @property
    def authority_path(self) -> Path:
        """The folder of the site's own authority as an absolute path."""
        return (self.federation.ca or self.data_dir / "ca").expanduser().absolute()
