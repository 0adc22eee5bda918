"""A GridFTP client on asyncio: ``ftp`` and ``gsiftp``, with no library but TLS.

What speaks no network is apart from what does: `replies`, `mode_e`, `listing`, `gsi`, `proxies`
and `trust` take bytes and give bytes; `wire`, `control` and `data` move them; `session` knows
the order of commands; `mover` is the port's adapter.
"""
