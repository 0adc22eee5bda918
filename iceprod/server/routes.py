"""All addresses of the general port, each with the action that it asks the caller's right for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tornado.routing import URLSpec
from tornado.web import RequestHandler

from iceprod.server import static
from iceprod.server.context import ProcessContext
from iceprod.server.handlers.asked_by_nginx import MayUploadHandler, RefusedCertificateHandler
from iceprod.server.handlers.events import EventsHandler
from iceprod.server.handlers.files import FileHandler
from iceprod.server.handlers.health import LiveHandler, MetricsHandler, ReadyHandler
from iceprod.server.handlers.pages import datasets, files, session, site, sites, submit, tasks
from iceprod.server.handlers.proxy.download import DownloadHandler
from iceprod.server.handlers.proxy.proxy import ProxyHandler
from iceprod.server.handlers.rpc import RpcHandler
from iceprod.server.handlers.uploads import announced, tus
from iceprod.server.static import StaticHandler

_ID: Final = r"([0-9A-Za-z-]{1,64})"
_PATH_KEY: Final = r"(iup_[A-Za-z0-9_-]{43})"
_KEY: Final = r"([0-9a-f]{16,128})"
_SITE: Final = r"([0-9A-Za-z][0-9A-Za-z_.-]{0,63})"
_PEER: Final = f"(parent|child)/{_SITE}"
_NUMBER: Final = r"(\d{1,18})"
_DATASET_VERBS: Final = ("suspend", "resume", "reset", "hard_reset", "truncate")
_VERBS: Final = ("suspend", "resume", "reset", "hard_reset")


@dataclass(frozen=True, slots=True)
class Route:
    """An address; ``actions`` gives for each HTTP method (HEAD goes with GET) the action that it is.

    A route without actions is open to everybody, or asks for itself as JSON-RPC does.
    """

    pattern: str
    handler: type[RequestHandler]
    actions: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)


def _act(pattern: str, handler: type[RequestHandler], action: str, **options: Any) -> Route:
    return Route(pattern, handler, {"POST": action}, options)


PAGES: Final = (
    Route("/", datasets.Home, {"GET": "dataset.list"}),
    Route("/sign-in", session.SignInPage, {"GET": "session.begin", "POST": "session.begin"}),
    Route("/sign-out", session.SignOut, {"POST": "session.end"}),
    Route("/account", session.AccountPage, {"GET": "token.list", "POST": "token.create"}),
    Route(r"/account/tokens/([0-9a-f]{16})/revoke", session.RevokeToken, {"POST": "token.revoke"}),
    Route("/account/password", session.ChangePassword, {"POST": "user.password"}),
    Route("/datasets", datasets.DatasetsPage, {"GET": "dataset.list"}),
    Route("/datasets/new", submit.SubmitPage, {"GET": "dataset.submit", "POST": "dataset.submit"}),
    Route(f"/datasets/{_ID}", datasets.DatasetPage, {"GET": "dataset.get"}),
    Route(f"/datasets/{_ID}/config", datasets.ConfigPage, {"GET": "dataset.config"}),
    Route(f"/datasets/{_ID}/jobs", datasets.JobsPage, {"GET": "job.list"}),
    Route(f"/datasets/{_ID}/tasks", datasets.TasksPage, {"GET": "task.list"}),
    *(
        _act(f"/datasets/{_ID}/{verb}", datasets.DatasetAct, f"dataset.{verb}", verb=verb)
        for verb in _DATASET_VERBS
    ),
    Route(f"/jobs/{_ID}", tasks.JobPage, {"GET": "job.get"}),
    *(_act(f"/jobs/{_ID}/{verb}", tasks.TasksAct, f"job.{verb}", kind="job", verb=verb) for verb in _VERBS),
    Route(f"/tasks/{_ID}", tasks.TaskPage, {"GET": "task.why"}),
    Route(rf"/tasks/{_ID}/logs/(\d{{1,9}})/([A-Za-z0-9_.-]{{1,64}})", tasks.LogText, {"GET": "task.log"}),
    *(
        _act(f"/tasks/{_ID}/{verb}", tasks.TasksAct, f"task.{verb}", kind="task", verb=verb)
        for verb in _VERBS
    ),
    Route("/pilots", site.PilotsPage, {"GET": "pilot.list"}),
    _act(f"/pilots/{_ID}/end", site.PilotAct, "pilot.end"),
    Route("/files", files.FilesPage, {"GET": "file.find"}),
    Route(f"/datasets/{_ID}/files", files.FilesPage, {"GET": "dataset.get"}),
    Route("/origins", files.OriginPage, {"GET": "origin.entries"}),
    _act("/delete-file", files.DeleteFile, "origin.delete"),
    Route("/transfers", files.TransfersPage, {"GET": "transfer.list"}),
    _act(rf"/cache/{_KEY}/pin", files.CacheAct, "cache.pin", verb="pin"),
    _act(rf"/cache/{_KEY}/unpin", files.CacheAct, "cache.pin", verb="unpin"),
    _act(rf"/cache/{_KEY}/evict", files.CacheAct, "cache.evict", verb="evict"),
    Route("/sites", sites.SitesPage, {"GET": "site.list"}),
    Route(f"/sites/{_PEER}", sites.SitePage, {"GET": "site.get"}),
    *(
        _act(f"/sites/{_PEER}/{verb}", sites.SiteAct, f"site.{verb}", verb=verb)
        for verb in ("pause", "resume", "revoke")
    ),
    *(
        _act(
            rf"/sites/parent/{_SITE}/letters/(\d{{1,18}})/{verb}", sites.LetterAct, f"site.{verb}", verb=verb
        )
        for verb in ("retry", "discard")
    ),
    Route("/health", site.HealthPage, {"GET": "site.status"}),
)
"""What people look at."""

SERVICES: Final = (
    Route(f"/events/datasets/{_ID}", EventsHandler, {"GET": "dataset.events"}),
    Route(
        "/files/(.+)",
        FileHandler,
        {
            "GET": "file.read_shared",
            "PUT": "file.write_shared",
            "POST": "file.write_shared",
            "DELETE": "file.delete_any",
        },
    ),
    Route("/proxy", ProxyHandler, {"GET": "proxy.read", "PUT": "proxy.write"}),
    Route("/download", DownloadHandler, {"POST": "proxy.read"}),
    Route("/tus/?", tus.TusCreation, {"OPTIONS": "upload.about", "POST": "upload.create"}),
    Route(
        f"/tus/{_ID}",
        tus.TusUpload,
        {
            "OPTIONS": "upload.about",
            "GET": "upload.read",
            "PATCH": "upload.write",
            "DELETE": "upload.cancel",
        },
    ),
    Route("/upload", announced.AnnounceHandler, {"POST": "upload.create"}),
    Route("/upload/check", announced.CheckHandler, {"GET": "upload.read", "POST": "upload.read"}),
    Route(
        f"/upload/{_ID}/{_PATH_KEY}", announced.OneTimeHandler, {"PUT": "upload.send", "POST": "upload.send"}
    ),
    Route(
        f"/upload/{_ID}/{_PATH_KEY}/check",
        announced.OneTimeCheck,
        {"GET": "upload.send", "POST": "upload.send"},
    ),
    Route("/_nginx/may-upload", MayUploadHandler, {"GET": "upload.about"}),
    Route("/_nginx/refused-certificate", RefusedCertificateHandler, {"GET": "certificate.refused"}),
    Route("/healthz", LiveHandler, {"GET": "site.health"}),
    Route("/readyz", ReadyHandler, {"GET": "site.health"}),
    Route("/metrics", MetricsHandler, {"GET": "site.metrics"}),
)
"""What programs ask for; the area of a file decides further (`services.files`)."""


def routes() -> tuple[Route, ...]:
    """Every route that names its action."""
    return PAGES + SERVICES


def url_specs(context: ProcessContext) -> list[URLSpec]:
    """The routes as Tornado wants them."""
    specs = [
        URLSpec(f"{route.pattern}$", route.handler, {"actions": route.actions, **route.options})
        for route in routes()
    ]
    specs.append(URLSpec("/jsonrpc/?$", RpcHandler, {"dispatcher": context.dispatcher}))
    specs.append(URLSpec(r"/static/([0-9a-f]+)/(.*)$", StaticHandler, {"path": str(static.ROOT)}))
    return specs
