"""Optimisation of many codes at once, in slots; independent of images."""
