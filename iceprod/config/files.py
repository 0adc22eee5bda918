"""Settings of the file plane."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from iceprod.config.sections import Count, Delay, Seconds, Section


class OriginSettings(Section):
    """A place elsewhere whose files pass through this site: everything below one address."""

    url: str = Field(
        pattern=r"^(http|https|ftp|gsiftp|sftp|globus|file):/\S*$",
        examples=["gsiftp://gridftp.example.org/data"],
    )
    """Address of the place; what lies below it may be asked for."""
    write: bool = False
    """Whether files may be put there and deleted."""
    private: bool = False
    """Whether it may be on this machine or in a private network."""
    groups: tuple[str, ...] = ()
    """Groups whose users may use it; everybody who may sign in if none is named."""
    connections: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Most connections to it at a time, shared fairly by its users."""
    bytes_per_s: Annotated[int, Field(ge=0)] = 0
    """Most bytes per second from and to it together; 0 for any number."""
    ca_path: Path | None = None
    """Authorities of its certificate: a PEM file, or a directory of HASH.0 files; the system's if unset."""
    redirects: tuple[str, ...] = ()
    """Other hosts that it may send readers on to; `*.example.org` stands for all below."""
    token_endpoint: str = Field(default="", pattern=r"^$|^https?://\S+$")
    """Where OAuth 2 gives new bearer tokens for refresh tokens, `https://auth.globus.org/v2/oauth2/token`
    for Globus; only tokens for this origin are renewed there."""
    options: dict[str, str] = {}
    """What one protocol alone knows, like `protection` and `streams` of GridFTP."""


class CacheSettings(Section):
    """Copies of files of origins on the server's disk."""

    path: Path | None = None
    """Directory of the copies; `cache` in the data directory if unset."""
    max_bytes: Count = 50 * 10**9
    """Most that they take; those not read for longest give way."""
    max_file_bytes: Count = 20 * 10**9
    """Largest file that is kept; a larger one passes through."""
    fresh_s: Delay = 300.0
    """For how long a copy is served without asking the origin whether it has changed."""


class UploadSettings(Section):
    """Files that come in parts, or are announced first."""

    path: Path | None = None
    """Directory of what is not complete; `uploads` in the data directory if unset."""
    expire_s: Seconds = 24 * 3600.0
    """How long an upload may rest before it is thrown away."""
    max_open: Count = 1000
    """Most uploads under way for one user."""


class TransferSettings(Section):
    """How fast bytes may go; 0 is any speed."""

    user_bytes_per_s: Annotated[int, Field(ge=0)] = 0
    """For all transfers of one user together."""
    dataset_bytes_per_s: Annotated[int, Field(ge=0)] = 0
    """For all transfers of one dataset together."""
    site_bytes_per_s: Annotated[int, Field(ge=0)] = 0
    """For one peer site."""
    service_bytes_per_s: dict[Literal["proxy", "upload", "files", "cache", "forward"], Count] = {}
    """For each class of use."""
    connections: Annotated[int, Field(ge=1, le=1_000_000)] = 12_000
    """Most transfers at a time."""


class QuotaSettings(Section):
    """How much may be kept where nobody has set another limit; 0 is any amount."""

    user_bytes: Annotated[int, Field(ge=0)] = 0
    """For one user, all of the user's datasets together."""
    group_bytes: Annotated[int, Field(ge=0)] = 0
    """For one group."""
    dataset_bytes: Annotated[int, Field(ge=0)] = 0
    """For one dataset."""


class TempSettings(Section):
    """When files of the temp areas are deleted."""

    job_keep_h: Delay = 24.0
    """Hours that a job's files stay after the job is complete."""
    dataset_keep_h: Delay = 30 * 24.0
    """Hours that a dataset's files stay after the dataset is complete."""
    site_keep_h: Delay = 0.0
    """Hours that the site's files stay without being written to; 0 for ever."""
    every_s: Seconds = 3600.0
    """How often that is looked after."""


class FileSettings(Section):
    """The file plane: the temp areas of datasets, and files of other places that pass through."""

    path: Path | None = None
    """Directory of the files; `files` in the data directory if unset."""
    max_bytes: Count = 100 * 10**9
    """Largest file taken."""
    keep_free_bytes: Annotated[int, Field(ge=0)] = 10**8
    """Space on the disk that uploads and copies leave free."""
    credential_key_file: Path | None = None
    """The keys that credentials for origins are sealed with; `credentials.key` in the data directory
    if unset. Every server that shares a database needs the same file."""
    pilots_use: Literal["origin", "proxy"] = "origin"
    """Whether pilots fetch files of known origins there or through this server."""
    origins: dict[Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,39}$")], OriginSettings] = {}
    """The places whose files pass through, by a name of your choice."""
    cache: CacheSettings = CacheSettings()
    """Copies on the server's disk."""
    uploads: UploadSettings = UploadSettings()
    """Files that come in parts."""
    limits: TransferSettings = TransferSettings()
    """How fast bytes may go."""
    quotas: QuotaSettings = QuotaSettings()
    """How much may be kept."""
    temp: TempSettings = TempSettings()
    """When files of the temp areas are deleted."""
