"""Executors: where tasks run, in this process or on Ray."""
