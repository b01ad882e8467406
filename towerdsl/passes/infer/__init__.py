"""Resolved --> Model: types with named axes for everything that the flow reaches.

What types an expression, a block and a statement is one recursive thing, so this is one package with one door. A file
imports only what stands above it here:

- `assigned`, `reading`, `scope`: what statements assign, what became of them, what names mean at a place
- `axes`, `mistakes`, `reads`: how axes combine, what is said where they do not, indices that leave their axis
- `tables`, `names`, `axis_names`, `values`, `positions`: what a spec can name, and values made of values
- `typer`: what the parts below call of each other
- `branches`, `shown`, `needs`, `index`, `functions`, `operations`, `modules`, `expression`: expressions
- `declared`, `statements`: declarations, assignments, loops, choices
- `weighting`, `sources`, `attention`: an attention and its `Average`
- `binding`, `blocks`: calls of blocks, each made once
- `sizes`, `model`: the sizes, then the model; here the recursion is closed
"""

from towerdsl.passes.infer.model import all_sizes, infer

__all__ = ["all_sizes", "infer"]
