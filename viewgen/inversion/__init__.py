"""Refined inversion: the code whose image is nearest to a given one."""
