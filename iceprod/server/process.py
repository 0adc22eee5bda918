"""Starting and stopping the server process, in this order and no other.

Start: settings and log → the data directory, for this process alone → the store (migrated,
repaired) → accounts → what the scheduler knows → loops and duties → listeners → ready.
Stop: no new connections → long polls and live pages end → requests under way end → loops
and duties end → what is kept in memory is saved → the store closes.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import structlog

from iceprod import clock as clocks
from iceprod.config import ServerSettings, Settings
from iceprod.errors import AccessDenied, AlreadyExists, NotAuthenticated
from iceprod.model.principal import Principal, PrincipalKind
from iceprod.rpc.dispatch import Dispatcher
from iceprod.rpc.methods import build_registry
from iceprod.server.app import Application, make_application
from iceprod.server.assembly import make_services, make_store
from iceprod.server.configured import rpc_limits
from iceprod.server.context import ProcessContext, Services
from iceprod.server.duties import Supervisor
from iceprod.server.fastlane import FastLane
from iceprod.server.fastlane_request import FastLaneLimits
from iceprod.server.live import LiveProgress
from iceprod.server.metrics import Metrics
from iceprod.server.opening import open_store
from iceprod.server.processes import sockets
from iceprod.server.processes.directory import ADMIN_FILE, PORTS_FILE, data_directory, told, write_private
from iceprod.server.processes.draining import Doors, GeneralPort
from iceprod.server.processes.leaving import Leave
from iceprod.server.processes.roster import Reached
from iceprod.server.shift import Shift
from iceprod.server.tls_port import DirectPort, TrustFiles
from iceprod.server.views import progress_json
from iceprod.services import authorization
from iceprod.services.refusals import Refusals
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
        authorize=_authorizer(settings, services.federation.refusals),
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


def _authorizer(settings: Settings, refusals: Refusals) -> Callable[[Principal, str], None]:
    """The authorization table, narrowed where the settings keep reports from strangers."""

    def authorize(principal: Principal, method: str) -> None:
        is_stranger = principal.kind is PrincipalKind.ANONYMOUS and not settings.rpc.public_reports
        if is_stranger and authorization.action_of(method) == "report.read":
            raise NotAuthenticated("reports of this site need a credential")
        try:
            authorization.check(principal, method)
        except (AccessDenied, NotAuthenticated) as exc:
            refusals.note_call(principal, method, exc)
            raise

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
        self.sockets = dict(given or {})
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

    @property
    def reached(self) -> Reached:
        """Where it answers."""
        addresses = self.context.services.addresses
        return Reached(addresses.url, addresses.rpc_url)

    async def stop(self, leave: Leave | None = None) -> None:
        """Answer what is under way, for a bounded time, then end everything."""
        self._leave = leave or self._leave
        await self._stack.aclose()

    async def _start(self) -> None:
        settings, stack = self.settings, self._stack
        if not self._is_worker:
            stack.enter_context(data_directory(settings.data_dir))
        store = make_store(settings)
        await open_store(store, wait_s=settings.store.wait_s)
        stack.push_async_callback(store.close)
        self.context = context = make_context(store, settings)
        services = context.services
        await _open_services(services, settings)
        stack.callback(services.accounts.close)
        stack.callback(services.files.close)
        stack.push_async_callback(services.federation.files.close)
        stack.push_async_callback(services.origins.close)
        stack.push_async_callback(services.proxying.cache.close)
        stack.callback(services.uploads.service.close)
        stack.push_async_callback(services.uploads.service.end)
        stack.push_async_callback(services.uploads.keeper.stop)
        stack.push_async_callback(services.places.stop)
        shift = Shift(services, store, settings, supervisor=context.supervisor)
        stack.push_async_callback(shift.end)
        stack.push_async_callback(context.supervisor.stop)
        self.sockets = sockets.complete(self.sockets, settings)
        self.ports = {sockets.NAMES[name]: sockets.port_of(bound) for name, bound in self.sockets.items()}
        stack.callback(sockets.close, self.sockets)
        await self._listen(context)
        if not self._is_worker:
            stack.enter_context(told(settings.data_dir / PORTS_FILE, self.ports))
        services.grids.url = services.addresses.rpc_url
        context.supervisor.start_loop("measure the loop", context.metrics.sample_loop)
        await shift.begin()

    async def _listen(self, context: ProcessContext) -> None:
        settings = self.settings.server
        application = make_application(context)
        http = GeneralPort(application, xheaders=settings.proxied, **_bounds(settings))
        http.add_socket(self.sockets["http"])
        addresses = context.services.addresses
        addresses.url = settings.url.rstrip("/") or sockets.url_of(settings.host, self.ports["server.port"])
        addresses.rpc_url = settings.rpc_url.rstrip("/") or addresses.url
        lane = await self._open_lane(context) if "rpc" in self.sockets else None
        ports = (http, self._open_direct(application)) if "tls" in self.sockets else (http,)
        doors = Doors(context.live.send_away, context.end_polls, application, ports, lane)
        self._stack.push_async_callback(lambda: doors.close(self._leave))

    def _open_direct(self, application: Application) -> DirectPort:
        files = TrustFiles(self.settings.tls)
        refusals = self.context.services.federation.refusals
        direct = DirectPort(application, files=files, refusals=refusals, **_bounds(self.settings.server))
        direct.add_socket(self.sockets["tls"])
        self.context.supervisor.start_loop("watch certificates", direct.watch)
        return direct

    async def _open_lane(self, context: ProcessContext) -> FastLane:
        settings = self.settings.server
        limits = FastLaneLimits(body_bytes=self.settings.rpc.max_message_bytes)
        lane = FastLane(
            context.dispatcher,
            limits=limits,
            is_proxied=settings.proxied,
            holder=context.services.certificates.holder,
        )
        port = await lane.start(bound=self.sockets["rpc"])
        if not settings.rpc_url:
            context.services.addresses.rpc_url = sockets.url_of(settings.host, port)
        return lane


def _bounds(settings: ServerSettings) -> dict[str, Any]:
    """What Tornado's server takes from anybody."""
    return {
        "max_body_size": settings.max_form_bytes,
        "max_header_size": _MAX_HEAD,
        "idle_connection_timeout": _IDLE_S,
        "body_timeout": _BODY_S,
    }


async def _open_services(services: Services, settings: Settings) -> None:
    await services.accounts.open()
    await services.files.open()
    await services.uploads.service.open()
    await services.proxying.cache.open()
    await services.news.open(services.hearing)  # before anything is read that news may be about
    await services.scheduler.load()
    await services.federation.recovery.load()
    await services.pilots.load()
    await services.hearing.peers.load()
    try:
        password = await services.accounts.create_first_admin()
    except AlreadyExists:  # another process that was started at the same moment was first
        return
    if password is not None:
        write_private(settings.data_dir / ADMIN_FILE, f"name: admin\npassword: {password}\n")
        logger.info("first administrator created", file=str(settings.data_dir / ADMIN_FILE))


def tune_interpreter() -> None:
    """Set this process up for many short-lived objects on one busy thread beside a few others."""
    # What was loaded stays, so the collector need not look at it; and a request makes some
    # hundred objects that reference counting frees, which is no reason to look for cycles.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    # The store's threads hold the interpreter for microseconds, and should get it as soon.
    sys.setswitchinterval(0.0005)
