"""Copies of files of origins on the server's disk; `Cache` is the door to them."""

from iceprod.services.cache.cache import Cache, CacheLimits, stat
from iceprod.services.cache.contents import Reading
from iceprod.services.cache.fetching import Source, Wanted
from iceprod.services.cache.shelf import Kept

__all__ = ["Cache", "CacheLimits", "Kept", "Reading", "Source", "Wanted", "stat"]
