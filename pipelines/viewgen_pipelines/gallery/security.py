"""Access to the pages: the Host header, a token if the gallery listens beyond this machine, response headers.

A web page of another site can make a visitor's browser ask for ``http://127.0.0.1:8000/`` under its own host
name that resolves to this machine (DNS rebinding). Such a request is recognised by the Host header, which
then carries that name.
"""

import contextlib
import hashlib
import hmac
import ipaddress
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlencode

from viewgen_pipelines.gallery.templating import message_page

__all__ = ["HEADERS", "Guard", "has_one_host", "is_loopback", "known_hosts", "new_token"]

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    # no script, style or picture but our own files; inline SVG needs none of these
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
_COOKIE_AGE = 7 * 24 * 3600


def new_token() -> str:
    """Return a token that cannot be guessed."""
    return secrets.token_urlsafe(24)


def is_loopback(host: str) -> bool:
    """Return True if an address to listen on is reachable from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def known_hosts(bound: str, more: Collection[str] = ()) -> frozenset[str]:
    """Return the accepted host names and addresses of the gallery.

    Args:
        bound: address that the server listens on.
        more: further names that the user trusts.
    """
    names = set(_LOOPBACK_NAMES) | {name.lower().strip("[]") for name in more}
    if is_loopback(bound):
        return frozenset(names)
    if not _means_all(bound):
        return frozenset(names | {bound.lower().strip("[]")})
    own = socket.gethostname()
    names |= {own.lower(), socket.getfqdn().lower()}
    with contextlib.suppress(OSError):  # a name that the machine itself cannot resolve
        names |= {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(own, None)}
    return frozenset(names)


def _means_all(host: str) -> bool:
    """Return True if an address means all interfaces."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_unspecified
    except ValueError:
        return False


def has_one_host(scope: Scope) -> bool:
    """Return True if a request has one Host header; of several, somebody on the way may take another one."""
    return len([name for name, _ in scope["headers"] if name.lower() == b"host"]) == 1


class Guard:
    """ASGI middleware in front of the gallery.

    Args:
        app: the gallery.
        hosts: accepted names in the Host header.
        token: token that visitors must show once; None if no token is required. It comes as ``?token=`` in an
            address (which redirects to the address without it), from the login form, or as
            ``Authorization: Bearer``.
    """

    def __init__(self, app: App, *, hosts: Collection[str], token: str | None = None) -> None:
        self.app, self.hosts, self.token = app, frozenset(hosts), token
        # cookies go by host, not by port: a name of its own keeps two galleries on one machine apart
        digest = hashlib.sha256((token or "").encode()).hexdigest()
        self.cookie_name = f"viewgen-{digest[:8]}"
        self.cookie_value = hmac.new((token or "").encode(), b"viewgen gallery", "sha256").hexdigest()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        if not has_one_host(scope) or _host_name(headers.get("host", "")) not in self.hosts:
            await _answer(
                send, 421, message_page("Unknown host", "This gallery is not served under that name.")
            )
            return
        # the form that asks for the token has the same style sheet; it tells nothing
        public = scope["path"].removeprefix(scope.get("root_path", "")).startswith("/static/")
        if self.token is not None and not public and not self._let_in(headers):
            await self._ask(scope, receive, send)
            return

        async def send_guarded(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                present = {name.lower() for name, _ in message["headers"]}
                extra = [(n.encode(), v.encode()) for n, v in HEADERS.items() if n.encode() not in present]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        await self.app(scope, receive, send_guarded)

    def _let_in(self, headers: dict[str, str]) -> bool:
        assert self.token is not None
        scheme, _, said = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and _same(said.strip(), self.token):
            return True
        for part in headers.get("cookie", "").split(";"):
            name, _, value = part.strip().partition("=")
            if name == self.cookie_name and _same(value, self.cookie_value):
                return True
        return False

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Accept a token, or show the login form."""
        path = scope.get("root_path", "")
        inner = scope["path"].removeprefix(path)
        depth = inner.count("/") - 1
        query = parse_qs(scope.get("query_string", b"").decode("latin-1"))
        said = query.pop("token", [""])[0]
        rest = urlencode(query, doseq=True)
        target = f"{'?' + rest if rest else ''}" or "."
        if scope["method"] == "POST" and inner == "/login":
            said = parse_qs((await _body(receive)).decode("latin-1")).get("token", [""])[0]
            target = "index.html"
        elif scope["method"] != "GET":
            said = ""
        assert self.token is not None
        if said and _same(said, self.token):
            if target == ".":
                target = inner.rpartition("/")[2] or "./"
            cookie = (
                f"{self.cookie_name}={self.cookie_value}; Path={path or '/'}; Max-Age={_COOKIE_AGE}; "
                "HttpOnly; SameSite=Strict"
            )
            await _answer(send, 303, "", [("location", target), ("set-cookie", cookie)])
            return
        text = "That is not its token." if said else "It is on the terminal where the gallery was started."
        page = message_page("This gallery asks for its token", text, root="../" * max(depth, 0), login=True)
        await _answer(send, 401, page)


def _host_name(host: str) -> str:
    """Return the Host header without its port; empty if it is malformed."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[\w.-]+)(:\d{1,5})?", host, re.ASCII)
    return match[1].strip("[]").lower().removesuffix(".") if match else ""


def _same(said: str, expected: str) -> bool:
    return hmac.compare_digest(said.encode(), expected.encode())


async def _body(receive: Receive, limit: int = 4096) -> bytes:
    body: bytes = b""
    while len(body) <= limit:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            return body
    return b""


async def _answer(send: Send, status: int, page: str, headers: list[tuple[str, str]] | None = None) -> None:
    everything = {**HEADERS, "content-type": "text/html; charset=utf-8", "cache-control": "no-store"}
    pairs = [*everything.items(), *(headers or [])]
    start = {
        "type": "http.response.start",
        "status": status,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
    }
    await send(start)
    await send({"type": "http.response.body", "body": page.encode()})
