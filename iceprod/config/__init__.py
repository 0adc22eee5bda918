"""Settings: one TOML file, overridden by the environment, checked as a whole at start.

Each room has a section of its own.  Settings are frozen once loaded and never written
back.  Importing this room costs a few hundred milliseconds (pydantic), so the command
line does it only where a command needs settings.
"""

from __future__ import annotations

from iceprod.config.federation import FederationSettings
from iceprod.config.files import (
    CacheSettings,
    FileSettings,
    OriginSettings,
    QuotaSettings,
    TempSettings,
    TransferSettings,
    UploadSettings,
)
from iceprod.config.loading import load
from iceprod.config.reference import example_toml, reference_page
from iceprod.config.settings import (
    AccountSettings,
    FailureRuleSettings,
    FailureSettings,
    GridSettings,
    LogSettings,
    NginxSettings,
    PageSettings,
    RpcSettings,
    SchedulingSettings,
    ServerSettings,
    Settings,
    ShareSettings,
    StoreSettings,
    TlsSettings,
)

__all__ = [
    "AccountSettings",
    "CacheSettings",
    "FailureRuleSettings",
    "FailureSettings",
    "FederationSettings",
    "FileSettings",
    "GridSettings",
    "LogSettings",
    "NginxSettings",
    "OriginSettings",
    "PageSettings",
    "QuotaSettings",
    "RpcSettings",
    "SchedulingSettings",
    "ServerSettings",
    "Settings",
    "ShareSettings",
    "StoreSettings",
    "TempSettings",
    "TlsSettings",
    "TransferSettings",
    "UploadSettings",
    "example_toml",
    "load",
    "reference_page",
]
