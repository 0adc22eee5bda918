"""The key file of the vault, for commands beside a server."""

from __future__ import annotations

from iceprod.config import Settings
from iceprod.services.vault_keys import KeyRing


def rotate(settings: Settings) -> int:
    """Have credentials be sealed with a new key from now on; how many keys there are then.

    Raises:
        ConfigError: the key file is none, or others may read it.
    """
    return KeyRing(settings.credential_key_path).rotate()
