"""The gallery: pages on which people look at a cache, served by Ray Serve or written as plain files.

`index` and `queries` know which images there are and in which order, `sources` and `pictures` make the
pixels, `live` follows a run, `pages` writes HTML, `app` serves it, `serve` puts the app on a Ray session and
`static_site` on a disk. Only `serve` needs Ray.
"""
