"""Emitted source: whatever `check` says ok to runs."""
