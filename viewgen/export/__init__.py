"""Copies of a cache in formats of other tools: folders of pictures, tars, Parquet files."""

from viewgen.export.command import FORMATS, export_cache

__all__ = ["FORMATS", "export_cache"]
