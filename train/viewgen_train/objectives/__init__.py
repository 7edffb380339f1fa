"""Objectives: losses of the views of a step."""
