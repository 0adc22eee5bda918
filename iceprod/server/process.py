"""Starting and stopping the server process, in this order and no other.

Start: settings and log → the data directory, for this process alone → the store (migrated,
repaired) → accounts → what the scheduler knows → loops and duties → listeners → ready.
Stop: no new connections → long polls and live pages end → requests under way end → loops
and duties end → what is kept in memory is saved → the store closes.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec
import structlog
import uvloop

from iceprod import clock as clocks
from iceprod import log
from iceprod._version import __version__
from iceprod.config import Settings
from iceprod.errors import NotAuthenticated
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.rpc.dispatch import Dispatcher
from iceprod.rpc.methods import build_registry
from iceprod.server import sockets
from iceprod.server.app import make_application
from iceprod.server.assembly import make_services, make_store, rpc_limits
from iceprod.server.context import ProcessContext, Services
from iceprod.server.directory import ADMIN_FILE, PORTS_FILE, data_directory, told, write_private
from iceprod.server.draining import Doors, GeneralPort, Leave
from iceprod.server.duties import Supervisor
from iceprod.server.fastlane import FastLane
from iceprod.server.fastlane_request import FastLaneLimits
from iceprod.server.live import LiveProgress
from iceprod.server.metrics import Metrics
from iceprod.server.shift import Shift
from iceprod.server.views import progress_json
from iceprod.services import authorization
from iceprod.store.base import Store

logger = structlog.get_logger(__name__)

_MAX_HEAD = 32 * 1024
_IDLE_S = 120.0
_BODY_S = 120.0


def make_context(store: Store, settings: Settings, *, services: Services | None = None) -> ProcessContext:
    """Everything that lives as long as the process, over a store that is open."""
    services = services or make_services(store, settings)
    dispatcher = Dispatcher(
        build_registry(),
        authenticate=services.accounts.authenticate,
        authorize=_authorizer(settings),
        services=services,
        limits=rpc_limits(settings),
    )
    supervisor = Supervisor(clocks.now)
    live = LiveProgress(services.events, progress_json(services))
    metrics = Metrics(
        store,
        services,
        clock=clocks.now,
        dispatcher=dispatcher,
        supervisor=supervisor,
        viewers=lambda: live.viewers,
    )
    return ProcessContext(
        settings=settings,
        clock=clocks.now,
        store=store,
        services=services,
        dispatcher=dispatcher,
        supervisor=supervisor,
        metrics=metrics,
        live=live,
    )


def _authorizer(settings: Settings) -> Callable[[Principal, str], None]:
    """The authorization table, narrowed where the settings keep reports from strangers."""

    def authorize(principal: Principal, method: str) -> None:
        is_stranger = principal.kind is PrincipalKind.ANONYMOUS and not settings.rpc.public_reports
        if is_stranger and authorization.action_of(method) == "report.read":
            raise NotAuthenticated("reports of this site need a credential")
        authorization.check(principal, method)

    return authorize


class Server:
    """One server process: `start`, then `stop`.

    ``given`` are sockets that are bound already, by name.  A worker, one of several processes
    of a supervisor, leaves the data directory and what is told there to that.
    """

    def __init__(
        self, settings: Settings, *, given: sockets.Sockets | None = None, is_worker: bool = False
    ) -> None:
        self.settings = settings
        self.context: ProcessContext
        self.ports: dict[str, int] = {}
        self._sockets = dict(given or {})
        self._is_worker = is_worker
        self._leave = Leave(finish_s=settings.server.drain_s)
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        """Listen and work.

        Raises:
            ConfigError: a port or the data directory is taken, or the store can't be opened.
        """
        try:
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise

    async def stop(self, leave: Leave | None = None) -> None:
        """Answer what is under way, for a bounded time, then end everything."""
        self._leave = leave or self._leave
        await self._stack.aclose()

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        if not self._is_worker:
            stack.enter_context(data_directory(settings.data_dir))
        store = make_store(settings)
        await store.open()
        stack.push_async_callback(store.close)
        self.context = context = make_context(store, settings)
        services = context.services
        await _open_services(services, settings)
        stack.callback(services.accounts.close)
        stack.callback(services.files.close)
        shift = Shift(services, store, settings, supervisor=context.supervisor)
        stack.push_async_callback(shift.end)
        stack.push_async_callback(context.supervisor.stop)
        await self._listen(context)
        if not self._is_worker:
            stack.enter_context(told(settings.data_dir / PORTS_FILE, self.ports))
        services.grids.url = services.addresses.rpc_url
        context.supervisor.start_loop("measure the loop", context.metrics.sample_loop)
        await shift.begin()

    async def _listen(self, context: ProcessContext) -> None:
        settings = self.settings.server
        application = make_application(context)
        http = GeneralPort(
            application,
            xheaders=settings.proxied,
            max_body_size=settings.max_form_bytes,
            max_header_size=_MAX_HEAD,
            idle_connection_timeout=_IDLE_S,
            body_timeout=_BODY_S,
        )
        bound = self._bound("http", settings.port)
        http.add_socket(bound)
        addresses = context.services.addresses
        addresses.url = settings.url.rstrip("/") or sockets.url_of(settings.host, sockets.port_of(bound))
        addresses.rpc_url = settings.rpc_url.rstrip("/") or addresses.url
        lane = await self._open_lane(context) if settings.rpc_lane else None
        doors = Doors(context, application, http, lane)
        self._stack.push_async_callback(lambda: doors.close(self._leave))

    async def _open_lane(self, context: ProcessContext) -> FastLane:
        settings = self.settings.server
        limits = FastLaneLimits(body_bytes=self.settings.rpc.max_message_bytes)
        lane = FastLane(context.dispatcher, limits=limits, is_proxied=settings.proxied)
        port = await lane.start(bound=self._bound("rpc", settings.rpc_port))
        if not settings.rpc_url:
            context.services.addresses.rpc_url = sockets.url_of(settings.host, port)
        return lane

    def _bound(self, name: str, port: int) -> socket.socket:
        """The socket that was given under a name, or a new one."""
        bound = self._sockets.get(name) or sockets.bind(name, self.settings.server.host, port)
        self.ports[sockets.NAMES[name]] = sockets.port_of(bound)
        return bound


async def _open_services(services: Services, settings: Settings) -> None:
    await services.accounts.open()
    await services.files.open()
    await services.news.open(services.hearing)  # before anything is read that news may be about
    await services.scheduler.load()
    await services.pilots.load()
    password = await services.accounts.create_first_admin()
    if password is not None:
        write_private(settings.data_dir / ADMIN_FILE, f"name: admin\npassword: {password}\n")
        logger.info("first administrator created", file=str(settings.data_dir / ADMIN_FILE))


def _announce(settings: Settings, services: Services, ready_file: Path | None) -> None:
    addresses = services.addresses
    facts = {
        "url": addresses.url,
        "rpc_url": addresses.rpc_url,
        "pid": os.getpid(),
        "version": __version__,
        "data_dir": str(settings.data_dir),
    }
    if ready_file is not None:
        write_private(ready_file, msgspec.json.encode(facts).decode() + "\n")
    sys.stdout.write(f"iceprod is ready: {addresses.url}/ (JSON-RPC: {addresses.rpc_url}/jsonrpc)\n")
    sys.stdout.flush()
    logger.info("ready", **facts)


async def serve(settings: Settings, *, ready_file: Path | None = None) -> None:
    """Run a server until SIGTERM or SIGINT; a second one ends it at once."""
    stop = asyncio.Event()
    server = Server(settings)
    await server.start()
    loop = asyncio.get_running_loop()
    main = asyncio.current_task()

    def asked_to_stop() -> None:
        if stop.is_set() and main is not None:
            main.cancel()
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked_to_stop)
    tune_interpreter()
    _announce(settings, server.context.services, ready_file)
    try:
        await stop.wait()
        logger.info("stopping")
    finally:
        await server.stop()
    logger.info("stopped")


def run(settings: Settings, *, ready_file: Path | None = None) -> None:
    """Run a server in this process until it is told to stop; what ``iceprod serve`` calls.

    ``ready_file`` is written once the server answers, as JSON with ``url``, ``rpc_url``,
    ``pid``, ``version`` and ``data_dir``.

    Raises:
        ConfigError: it cannot start with these settings.
    """
    log.configure(level=settings.log.level, form=settings.log.format)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            runner.run(serve(settings, ready_file=ready_file))
        except asyncio.CancelledError:
            logger.warning("stopped at once, as asked twice")
        finally:
            if ready_file is not None:
                ready_file.unlink(missing_ok=True)


def tune_interpreter() -> None:
    """Set this process up for many short-lived objects on one busy thread beside a few others."""
    # What was loaded stays, so the collector need not look at it; and a request makes some
    # hundred objects that reference counting frees, which is no reason to look for cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    # The store's threads hold the interpreter for microseconds, and should get it as soon.
    sys.setswitchinterval(0.0005)
