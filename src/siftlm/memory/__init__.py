"""Texts and their vectors on disk."""
