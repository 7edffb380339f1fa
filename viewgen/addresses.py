"""Addresses that a URL must not lead to: services for the machine itself, by name, number or redirect.

A URL may come from somebody else: the record of a training names the cache that it was trained on. The
metadata services of clouds hand credentials to any process of the machine that asks, so they are refused,
however the address is written. A redirect must not lead from elsewhere into a private network.
"""

import contextlib
import ipaddress
import socket
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urljoin, urlsplit

from viewgen.errors import StorageError
from viewgen.redaction import public_url

__all__ = ["check_options", "check_redirect", "check_url", "guarded_client"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Link-local addresses of all clouds, and the addresses outside of these of Alibaba, Oracle, Azure and AWS.
_NETWORKS = [
    ipaddress.ip_network(text)
    for text in (
        "169.254.0.0/16",
        "fe80::/10",
        "100.100.100.200/32",
        "192.0.0.192/32",
        "168.63.129.16/32",
        "fd00:ec2::/32",
        "fd20:ce::254/128",
    )
]
# their first part names a bucket, or a place in memory
_BUCKETS = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss", "memory"}
_NAMES = {"metadata", "metadata.google.internal", "metadata.goog", "instance-data"}


def check_url(url: str) -> None:
    """Refuse a URL of chained protocols, and one whose host is a metadata service.

    Names are not resolved here; `guarded_client` looks at what they resolve to.

    Raises:
        StorageError: it is refused.
    """
    if "::" in url:
        raise StorageError(
            f"{public_url(url)} chains protocols (a::b); give the URL of the cache itself, and a name for a "
            "host of IPv6: only its own store can tell whether an object is there already"
        )
    if url.partition("://")[0].lower() not in _BUCKETS:
        _check_host(url)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of a file system that name a metadata service as an endpoint.

    Raises:
        StorageError: they do.
    """
    for value in options.values():
        if isinstance(value, Mapping):
            check_options(value)
        elif isinstance(value, str) and "://" in value:
            _check_host(value)


def check_redirect(url: str, location: str) -> None:
    """Refuse a redirect to a metadata service, or from another host to an address that is not public.

    Args:
        url: URL that was asked for.
        location: target, absolute or relative to `url`.

    Raises:
        StorageError: it is refused.
    """
    target = urljoin(url, location)
    _check_host(target)
    host = urlsplit(target).hostname or ""
    if host == urlsplit(url).hostname:
        return
    with contextlib.suppress(socket.gaierror):
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        for address in (ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found):
            if not address.is_global or _is_refused(address):
                raise StorageError(
                    f"{public_url(url)} redirects to {public_url(target)}, which is inside a private network "
                    "or on this machine; give that URL itself if that is meant"
                )


def _check_host(url: str) -> None:
    with contextlib.suppress(ValueError):
        host = urlsplit(url).hostname or ""
        _refuse(host, public_url(url))


def _refuse(host: str, place: str) -> None:
    if host.lower().rstrip(".") in _NAMES or any(map(_is_refused, _numbers(host))):
        raise StorageError(
            f"{place} is an address of a metadata service, which hands out this machine's credentials; "
            "viewgen reads nothing from there"
        )


def _numbers(host: str) -> Iterator[Address]:
    """Yield the address that a host is, in any of the forms that programs accept; nothing for a name."""
    with contextlib.suppress(ValueError):
        yield ipaddress.ip_address(host.strip("[]").partition("%")[0])
        return
    with contextlib.suppress(OSError):  # one number, or parts in octal or hexadecimal
        yield ipaddress.IPv4Address(socket.inet_aton(host))


def _is_refused(address: Address) -> bool:
    inner = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    if inner is None and address in ipaddress.ip_network("64:ff9b::/96"):
        inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return any(each in network for each in (address, inner) if each is not None for network in _NETWORKS)


async def guarded_client(**settings: Any) -> Any:
    """Return an aiohttp session for fsspec that refuses these addresses at every connection and redirect."""
    import aiohttp
    from aiohttp.abc import AbstractResolver
    from aiohttp.resolver import ThreadedResolver

    class Resolver(AbstractResolver):
        def __init__(self) -> None:
            self._inner = ThreadedResolver()

        async def resolve(
            self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
        ) -> Any:
            found = await self._inner.resolve(host, port, family)
            try:
                for entry in found:
                    _refuse(entry["host"], host)
            except StorageError as error:
                raise ValueError(str(error)) from None  # of an OSError, aiohttp would hide the reason
            return found

        async def close(self) -> None:
            await self._inner.close()

    async def redirected(_: Any, __: Any, request: Any) -> None:
        headers = request.response.headers  # aiohttp follows either
        location = headers.get("Location") or headers.get("URI", "")
        check_redirect(str(request.response.url), location)

    trace = aiohttp.TraceConfig()
    trace.on_request_redirect.append(redirected)
    connector = aiohttp.TCPConnector(resolver=Resolver())
    return aiohttp.ClientSession(**({"connector": connector} | settings), trace_configs=[trace])
