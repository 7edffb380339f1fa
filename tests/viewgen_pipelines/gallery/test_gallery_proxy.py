"""What stands in front of Serve's proxy: no list of routes for anybody, one Host header per request."""

import asyncio
import os

import pytest
from starlette.middleware import Middleware

from viewgen_pipelines.executors import session
from viewgen_pipelines.gallery.proxy import ProxyGuard, middlewares


def answer(path, hosts, kind="http"):
    """Return what a client gets: "served", or a status."""
    sent = []

    async def served(scope, receive, send):
        sent.append("served")

    async def send(message):
        sent.append(message.get("status", message.get("code")))

    scope = {"type": kind, "path": path, "headers": [(b"host", host) for host in hosts]}
    asyncio.run(ProxyGuard(served)(scope, None, send))
    return sent[0]


@pytest.mark.parametrize("path", ["/-/routes", "/-/routes/", "/-/Routes"])
def test_nobody_is_told_the_routes(path):
    assert answer(path, [b"127.0.0.1:8000"]) == 404
    assert answer(path, [b"evil.example"]) == 404


@pytest.mark.parametrize("hosts", [[], [b"127.0.0.1", b"evil.example"], [b"a", b"a"]])
def test_a_request_has_one_host(hosts):
    assert answer("/views/", hosts) == 421
    assert answer("/views/", hosts, kind="websocket") == 1008


def test_everything_else_is_served():
    assert answer("/views/index.html", [b"127.0.0.1:8000"]) == "served"
    assert answer("/-/healthz", [b"127.0.0.1:8000"]) == "served"
    assert answer("", [], kind="lifespan") == "served"


def test_serve_finds_it_by_the_name_that_a_session_gives():
    from ray._common.utils import import_attr

    name = session._ENVIRONMENT["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    assert import_attr(name) is middlewares
    (found,) = middlewares()
    assert isinstance(found, Middleware)
    assert found.cls is ProxyGuard
    assert os.environ.get("RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH", name) == name
