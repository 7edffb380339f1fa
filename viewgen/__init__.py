"""Offline view generation for contrastive learning.

``viewgen`` is the core: what a view is and how one is made. It knows neither Ray nor training loops.
"""

from importlib.metadata import version

__all__ = ["__version__"]
__version__ = version("viewgen")
