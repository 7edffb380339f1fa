"""The gallery: pages that show a cache, served by Ray Serve or written as plain files.

`index` and `queries` list the images and their order; `sources` and `pictures` make the pixels; `live`
follows a run; `pages` writes HTML; `app` serves it; `serve` runs the app in a Ray session; `static_site`
writes it to disk. Only `serve` needs Ray.
"""
