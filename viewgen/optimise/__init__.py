"""Optimisation of many codes at once, in slots; it knows no images."""
