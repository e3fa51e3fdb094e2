"""Expunge: make a language model forget, from its answers and from its reasoning traces."""

__version__ = "0.1.0"
