"""What every attention claims to be, a weighted average, checked on the compiled model.

For each attention, in float64, with W the weights of the reference kernel on the arguments that the model gives it:

- values, gradients: the kernel's average of each head is W times values (or the message), and so are its gradients
  for query, key, value, what the score reads, and everything learned;
- hidden, visible: W is zero wherever locality or mask is false, as the condition's own text says, evaluated over all
  pairs, and leaves out no other pair;
- empty: a query that sees nothing gives zeros, and zero gradients;
- weights: W is what its normalizer and the bounds of its score make it: convex, bounded, positive or signed.
"""

from __future__ import annotations

from towerdsl.claims.claimed import GRADIENTS, VALUES
from towerdsl.claims.model import verify_library, verify_model, verify_spec
from towerdsl.claims.verified import (
    Checked,
    Failure,
    Verified,
    library_text,
    render,
    render_library,
    text,
    to_data,
)

__all__ = [
    "GRADIENTS",
    "VALUES",
    "Checked",
    "Failure",
    "Verified",
    "library_text",
    "render",
    "render_library",
    "text",
    "to_data",
    "verify_library",
    "verify_model",
    "verify_spec",
]
