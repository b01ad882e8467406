"""Resolved --> Model: types with named axes for everything that the flow reaches.

- `model`: the model, its inputs, sizes and params; `statements`: assignments, loops, choices
- `expression`, `index`, `axes`, `dtypes`: values and how they combine
- `calls`: operations, blocks, shared modules; `attention`: an attention block and its `Average`
- `scope`: what names mean at a place
"""

from towerdsl.passes.infer.model import infer

__all__ = ["infer"]
