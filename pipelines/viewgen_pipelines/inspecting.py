"""`viewgen inspect` as a function: look at a cache in a browser."""

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from viewgen.errors import UsageError, ViewgenError
from viewgen.extras import need
from viewgen_pipelines.gallery.security import is_loopback
from viewgen_pipelines.gallery.serve import GalleryOptions, ServedGallery, deploy, is_running, withdraw

__all__ = ["inspect"]

DEFAULT_STATIC_IMAGES = 200


def inspect(
    url: str,
    *,
    compare: str | Sequence[str] = (),
    static: str | Path | None = None,
    images: int | None = None,
    host: str = "127.0.0.1",
    expose: bool = False,
    port: int | None = None,
    allow_hosts: Sequence[str] = (),
    ray_address: str | None = None,
    storage_options: dict[str, Any] | None = None,
    data_root: str | None = None,
    inversions: str | None = None,
    models: str | None = None,
    say: Callable[[str], object] = lambda _: None,
    ready: Callable[[ServedGallery], object] = lambda _: None,
) -> Path | None:
    """Serve the gallery of a cache until interrupted, or write it as plain files.

    Args:
        url: URL of the cache, which may still be growing.
        compare: URLs of further caches of the same images, to compare with.
        static: folder for plain files that open without a server; nothing is served then.
        images: number of images that the plain files show, evenly spread; 200 by default.
        host: address to listen on.
        expose: allow an address that others can reach; visitors then need a token.
        port: port to listen on; by default 8000 or, if that is taken, a free one.
        allow_hosts: further names under which browsers may ask for the gallery.
        ray_address: address of a running Ray cluster; by default Ray is started on this machine.
        storage_options: options of the fsspec file system of the caches.
        data_root: folder of the data sets, None for the default.
        inversions: URL of the inversions; by default the URL beside the cache.
        models: folder of the `viewgen pretrain` run that made the networks.
        say: callback with lines about the gallery.
        ready: callback with the gallery once it answers.

    Returns:
        Path of the first page with `static`, else None.

    Raises:
        UsageError: an option is wrong, or other machines can reach the address and `expose` is not set.
        MissingFileError: there is no cache at the URL.
        ViewgenError: Ray or Serve does not start, or ends.
    """
    if images is not None and (static is None or images < 1):
        raise UsageError(f"--images {images}: a number of images, at least 1, for --static DIR")
    if not is_loopback(host) and not expose:
        raise UsageError(
            f"--host {host} can be reached from other machines; add --expose if that is meant (visitors then "
            "need a token), or use an SSH tunnel: ssh -L 8000:127.0.0.1:8000 thismachine"
        )
    need("gallery")
    if static is None:
        need("ray", "write plain files with --static DIR")
    from viewgen_pipelines.gallery.sources import CacheSource

    options = GalleryOptions(
        url=url,
        compare=(compare,) if isinstance(compare, str) else tuple(compare),
        storage_options=storage_options or {},
        data_root=data_root,
        inversions=inversions,
        models=models,
        host=host,
        port=port,
        allow_hosts=tuple(allow_hosts),
        eager=True,
    )
    sources = [
        CacheSource(
            url=place,
            storage_options=options.storage_options,
            data_root=options.data_root,
            inversions=options.inversions,
            models=models,
        )
        for place in (options.url, *options.compare)
    ]
    for source in sources:
        source.snapshot()  # a wrong URL shows before Ray has taken its time
    if static is not None:
        from viewgen_pipelines.gallery.static_site import write_static

        number = images or DEFAULT_STATIC_IMAGES
        return write_static(sources[0], sources[1:], static, num_images=number, say=say)
    _serve(options, ray_address, say, ready)
    return None


def _serve(
    options: GalleryOptions,
    ray_address: str | None,
    say: Callable[[str], object],
    ready: Callable[[ServedGallery], object],
) -> None:
    from viewgen_pipelines.executors.session import ray_session

    address = ray_address or os.environ.get("RAY_ADDRESS")
    say(f"joining the Ray cluster at {address}" if address else "starting Ray")
    with ray_session(address, say=say) as session:
        served = deploy(options)
        try:
            for line in served.lines:
                say(line)
            ready(served)
            while is_running(served.application):
                time.sleep(2)
            raise ViewgenError("the gallery has ended: its Ray session or its application is gone")
        finally:
            if not session.own:  # one of our own ends with all that it serves
                withdraw(served.application)
