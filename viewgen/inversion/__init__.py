"""Refined inversion: the code whose image is nearest to a given one."""

from viewgen.inversion.settings import ENTRY, InvertConfig

__all__ = ["ENTRY", "InvertConfig"]
