"""Corpora in, records out: one file per kind of input."""
