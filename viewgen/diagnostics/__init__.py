"""Diagnostics: what views, features and networks are worth."""
