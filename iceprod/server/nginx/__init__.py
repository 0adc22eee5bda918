"""nginx in front of the server: its configuration, and nginx itself as a process.

`generate` writes what the templates of the folder ``nginx/`` of the source make of the
settings, `check` has nginx look at it, `NginxProcess` keeps nginx running beside a server,
and `send` tells an nginx that runs already to read its configuration or open its logs anew.
"""

from __future__ import annotations

from iceprod.server.nginx.control import Verdict, check, command, send
from iceprod.server.nginx.generating import Generated, generate, is_fresh
from iceprod.server.nginx.process import NginxProcess
from iceprod.server.nginx.rendering import render

__all__ = [
    "Generated",
    "NginxProcess",
    "Verdict",
    "check",
    "command",
    "generate",
    "is_fresh",
    "render",
    "send",
]
