"""Credentials stay out of what is printed and stored.

Every URL and every set of storage options that the process opens is remembered here, and `redacted` replaces
their secret parts in any text: the user information, the query and the fragment of a URL, and the values of
options. It runs at the boundary, on each line that is printed and each reason that is stored, so that no
message has to think of it, and no library's exception gives a secret away.

A URL may be malformed: a secret with a slash, an ``@`` in a password, a protocol that is none. Where it is
not clear what is secret, all of it is.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, quote_plus, unquote, unquote_plus

from viewgen.errors import UsageError

__all__ = [
    "public_url",
    "redacted",
    "redacted_values",
    "refuse_credentials",
    "remember_options",
    "remember_url",
]

HIDDEN = "…"
# shorter texts would be found by accident, in words that are no secrets
SHORTEST = 5
# a user's name is no secret, the id of a key may be
SHORTEST_USER = 12

_PIECES = re.compile(r"[^\w.+=~-]+")
# what `--generator URL#sha256:…` promises of its file
_DIGEST = re.compile("#sha256:[0-9a-f]{64}$")
# the URL of a service or of a proxy
_ENDPOINT = re.compile(r"(https?|socks[45]h?)://[^/]")
# parameters of a URL that are, or sign, a permission
_CREDENTIAL = re.compile(
    r"token|secret|passw|pwd|signature|credential|(api|access).?key|^x-(amz|goog)-|"
    r"^(auth|authorization|sig|sas|key|code|jwt|session)$",
    re.IGNORECASE,
)
# a longer parameter without a name may be one
LONGEST_WORD = 16
_secrets: set[str] = set()


def public_url(url: str) -> str:
    """Return a URL without user information, query and fragment; chained URLs are joined by ``::``."""
    return "::".join(_public(link) for link in _links(url))


def remember_url(url: str) -> None:
    """Let `redacted` hide the secret parts of a URL."""
    for link in _links(url):
        user, rest = _secret_parts(link)
        name, separator, password = user.partition(":")
        if separator:
            _remember(user, password, *_PIECES.split(password))
            if len(name) >= SHORTEST_USER or _PIECES.search(name):
                _remember(name, *_PIECES.split(name))
        else:
            _remember(user, *_PIECES.split(user))
        rest = _DIGEST.sub("", rest)
        values = [value for pair in re.split("[?&;#]", rest) for value in (pair, pair.partition("=")[2])]
        words = [word for word in _PIECES.split(rest) for word in word.split("=")]
        # the names of parameters are words that messages need
        names = {word for word in words if word.replace("-", "").isalpha() and f"{word}=" in rest}
        _remember(rest, *values, *(word for word in words if word not in names))


def refuse_credentials(name: str) -> None:
    """Refuse a name with a URL that holds a password or a token: names are written into files.

    Raises:
        UsageError: it holds one; `redacted` hides it from then on.
    """
    for url in re.split(r"(?=\b\w+://)", name)[1:]:
        user, query = _secret_parts(url)
        # abfs://CONTAINER@ACCOUNT and sftp://USER@HOST name no secret
        has_password = ":" in user or (bool(user) and url.startswith("http"))
        if has_password or _split(url) is None or _has_credential(query):
            remember_url(url)
            raise UsageError(
                "the URL in the name of a data set holds a password or a token, and the name is written into "
                "caches, runs and cards; leave it out of the URL and give it to fsspec by the environment "
                "(AWS_PROFILE, FSSPEC_HTTPS, …), or download the file and name the copy"
            )


def _has_credential(query: str) -> bool:
    for parameter in re.split("[?&;#]", query):
        key, separator, _ = parameter.partition("=")
        if _CREDENTIAL.search(key) or (not separator and len(key) > LONGEST_WORD):
            return True
    return False


def remember_options(options: Mapping[str, Any]) -> None:
    """Let `redacted` hide the values of storage options; of an endpoint's URL, its secret parts."""
    for text in _texts(options):
        if "://" in text:
            remember_url(text)
        if not _ENDPOINT.match(text):
            # a secret may hold what looks like a protocol
            _remember(text, *(_PIECES.split(text) if "://" in text else ()))


def redacted(text: str) -> str:
    """Return a text without the secrets that this process has met."""
    if not _secrets:
        return text
    for secret in sorted(_secrets, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    return text


def redacted_values(value: Any) -> Any:
    """Return JSON values without secrets in their texts."""
    if isinstance(value, dict):
        return {key: redacted_values(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [redacted_values(entry) for entry in value]
    return redacted(value) if isinstance(value, str) else value


def _links(url: str) -> list[str]:
    """Return the links of a chained URL; other pieces belong to the link before."""
    links: list[str] = []
    pieces = url.split("::")
    for number, piece in enumerate(pieces):
        starts = "://" in piece or re.fullmatch(r"[a-z][a-z0-9+]*", piece)
        if links and (
            not starts or (_may_go_on(links[-1]) and any("@" in later for later in pieces[number:]))
        ):
            links[-1] += f"::{piece}"
        else:
            links.append(piece)
    return links


def _may_go_on(link: str) -> bool:
    """Return whether a link may have been cut within its user information: its ``@`` may still come."""
    _, separator, rest = link.partition("://")
    return bool(separator) and "@" not in rest and (":" in rest or "/" not in rest)


def _split(link: str) -> tuple[str, str, str, str] | None:
    """Return protocol, user information, place, and query of a URL; None if it is not clear what is what."""
    protocol, separator, rest = link.partition("://")
    if not separator:
        return "", "", link, ""
    query = re.search("[?#]", rest)
    at = rest.rfind("@")
    if query and at > query.start():
        return None
    head, tail = (rest[: query.start()], rest[query.start() :]) if query else (rest, "")
    if at < 0:
        return protocol, "", head, tail
    user, place = head[:at], head[at + 1 :]
    if "/" in user and ":" not in user:
        # a path with an @ in it
        first, slash, path = head.partition("/")
        user, _, host = first.rpartition("@")
        place = host + slash + path
    return protocol, user, place, tail


def _public(link: str) -> str:
    parts = _split(link)
    if parts is None:
        return link.partition("://")[0] + "://" + HIDDEN
    protocol, _, place, _ = parts
    return f"{protocol}://{place}" if "://" in link else place


def _secret_parts(link: str) -> tuple[str, str]:
    """Return user information and query of a URL."""
    parts = _split(link)
    if parts is None:
        return "", link.partition("://")[2]
    return parts[1], parts[3]


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for entry in value.values():
            yield from _texts(entry)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _texts(entry)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def _remember(*texts: str) -> None:
    """Remember texts, and the forms in which libraries repeat them."""
    for text in texts:
        for form in (text, unquote(text), unquote_plus(text), quote(text), quote(text, ""), quote_plus(text)):
            for written in (form, repr(form)[1:-1], json.dumps(form)[1:-1]):
                if len(written) >= SHORTEST:
                    _secrets.add(written)
