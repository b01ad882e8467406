"""The cases, by what they are about. Importing a module registers its cases."""

from . import compositions, localities, loops_along, normalizers, papers, scores, sources

__all__ = ["compositions", "localities", "loops_along", "normalizers", "papers", "scores", "sources"]
