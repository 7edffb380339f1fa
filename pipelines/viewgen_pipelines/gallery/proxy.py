"""What Ray Serve's proxy answers by itself, before any application is asked.

Its ``/-/routes`` tells the names and paths of all applications to whoever asks, under any host name and
without a token. A session that viewgen starts has the proxy load this middleware: an environment variable of
Serve's names the function `middlewares`.
"""

from typing import Any

from viewgen_pipelines.gallery.security import App, Receive, Scope, Send, has_one_host

__all__ = ["ProxyGuard", "middlewares"]

ROUTES = "/-/routes"


class ProxyGuard:
    """ASGI middleware in front of Serve: no list of routes, and one Host header per request.

    Args:
        app: Serve's proxy.
    """

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            status = 0 if has_one_host(scope) else 421
            if scope["path"].rstrip("/").lower() == ROUTES:
                status = 404
            if status:
                await _refuse(scope, send, status)
                return
        await self.app(scope, receive, send)


async def _refuse(scope: Scope, send: Send, status: int) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def middlewares() -> list[Any]:
    """Return Serve's middlewares in front of all applications."""
    from starlette.middleware import Middleware

    return [Middleware(ProxyGuard)]
