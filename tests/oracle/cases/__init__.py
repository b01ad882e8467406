"""The cases, by what they are about. Importing a module registers its cases."""

from . import compositions, localities, normalizers, papers, scores, sources

__all__ = ["compositions", "localities", "normalizers", "papers", "scores", "sources"]
