"""Secrets: whatever part of a URL or of the options holds one, no text shows it."""

import contextlib
import io
import json

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from viewgen import redaction
from viewgen.cli import main
from viewgen.errors import ViewgenError
from viewgen.redaction import public_url, redacted, remember_options, remember_url
from viewgen.store import open_storage
from viewgen.terminal import plain

CANARY = "c4naryS3cretXyz"
# what a secret may hold around the canary: all that has a meaning in URLs, and more
NOISE = st.text(st.sampled_from("ab:/@?#&=%+ .~!'\"\\[]é\x1b"), max_size=6)
SECRETS = st.builds(lambda before, after: f"{before}{CANARY}{after}", NOISE, NOISE)
FORMS = st.sampled_from(
    [
        "s3://{}@bucket/views.zarr",
        "s3://AKIAIOSFODNN7EXAMPLE:{}@bucket/views.zarr",
        "s3://{}:password@bucket/views.zarr",
        "ftp://user:{}@host:21/views.zarr",
        "https://host/views.zarr?token={}&x=1",
        "https://host/views.zarr?X-Amz-Signature={}",
        "https://host/views.zarr#{}",
        "ht!tp://u:{}@host/x",
        "simplecache::s3://key:{}@bucket/views.zarr",
        "filecache::https://host/x?sig={}",
    ]
)


@pytest.fixture(autouse=True)
def _forget(monkeypatch):
    monkeypatch.setattr(redaction, "_secrets", set())


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("views.zarr", "views.zarr"),
        ("/data/me@home/views.zarr", "/data/me@home/views.zarr"),
        ("s3://bucket/folder/views.zarr", "s3://bucket/folder/views.zarr"),
        ("s3://key:secret@bucket/views.zarr", "s3://bucket/views.zarr"),
        ("s3://bucket/me@home/views.zarr", "s3://bucket/me@home/views.zarr"),
        ("s3://KEY:aa/bb@bkt/views.zarr", "s3://bkt/views.zarr"),
        ("ftp://u:p1@p2@h/x", "ftp://h/x"),
        ("https://host:8080/x?email=a@b&token=t", "https://…"),
        ("https://host/x?sig=abc#part", "https://host/x"),
        ("simplecache::s3://k:s@b/x", "simplecache://"),
        ("memory://x", "memory://x"),
    ],
)
def test_a_url_is_shown_without_its_secrets(url, shown):
    if url.startswith("simplecache"):
        shown = "simplecache::s3://b/x"
    assert public_url(url) == shown


@settings(max_examples=200, deadline=None)
@given(FORMS, SECRETS)
def test_no_part_of_a_url_is_repeated(form, secret):
    """The URL itself, and what a library may make of it, in any of the forms that were seen."""
    if form.startswith("s3://{}@"):
        # without a colon, what lies behind a slash is a path with an @ in it
        secret = secret.replace("/", ".")
    url = form.replace("{}", secret)
    redaction._secrets.clear()
    remember_url(url)
    assert CANARY not in public_url(url)
    for text in (
        url,
        repr(url),
        json.dumps({"url": url}),
        f"Invalid bucket name {secret!r}",
        f"x {secret} y",
    ):
        assert CANARY not in redacted(text), text


@settings(max_examples=100, deadline=None)
@given(SECRETS, st.sampled_from(["key", "client_kwargs.endpoint", "headers.list"]))
@example(f"{CANARY}://", "key")
@example(f"x://{CANARY}", "key")
def test_no_storage_option_is_repeated(secret, place):
    redaction._secrets.clear()
    *folders, last = place.split(".")
    options = {last: [secret] if last == "list" else secret}
    for folder in reversed(folders):
        options = {folder: options}
    remember_options(options)
    for text in (repr(options), json.dumps(options), f"got {secret}"):
        assert CANARY not in redacted(text)


@pytest.mark.parametrize(
    "url",
    [
        f"s3://KEY:{CANARY}/bb@bkt/x",
        f"ftp://u:p1@{CANARY}@h/x",
        f"nosuch://u:{CANARY}@h/x",
        f"s3://u:a?{CANARY}@b/x",
    ],
)
def test_what_the_storage_says_shows_no_secret(url, recwarn):
    options = {"client_kwargs": {"endpoint_url": f"ht!tp://u:{CANARY}@h"}} if url.startswith("s3") else {}
    with pytest.raises(ViewgenError) as error:
        open_storage(url, options).read("zarr.json")
    assert CANARY not in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        f"show nosuch://u:{CANARY}@h/x",
        f"show nosuch://u:{CANARY}@h/x --json",
        f"show x extra nosuch://u:{CANARY}@h/x",
        f"cache --dataset digits --workers s3://u:{CANARY}@h/x",
        f"show nosuch://h/x?token={CANARY}&y --debug",
    ],
)
def test_no_command_prints_a_secret(words):
    """Neither in results nor in messages, of ours and of click's, nor in tracebacks."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), pytest.raises(SystemExit):
        main(words.split())
    assert err.getvalue()
    assert CANARY not in out.getvalue() + err.getvalue()


def test_a_short_or_absent_secret_changes_nothing():
    remember_url("s3://bucket/views.zarr")
    remember_options({"anon": True, "region": "eu"})
    text = "the cache at s3://bucket/views.zarr is true in eu"
    assert redacted(text) == plain(text) == text


def test_what_is_no_secret_stays_in_messages():
    remember_url(f"https://example.org/g.safetensors#sha256:{'9f86' * 16}")
    remember_url("https://host/x?versionId=12345abc&response-type=z")
    text = f"sha256:{'9f86' * 16} of versionId, response-type"
    assert redacted(text) == text
    assert redacted("12345abc") == "…"
