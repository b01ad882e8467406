"""All kernels, in order of preference where they are estimated to be equally fast."""

from __future__ import annotations

from towerdsl.kernels.banded import Banded
from towerdsl.kernels.base import Kernel
from towerdsl.kernels.chunked import Chunked
from towerdsl.kernels.diagonal import Diagonal
from towerdsl.kernels.edges import Edges
from towerdsl.kernels.factored import Factored
from towerdsl.kernels.gather import Gather
from towerdsl.kernels.merged import Merged
from towerdsl.kernels.partition import Partition
from towerdsl.kernels.reference import Reference
from towerdsl.kernels.sdpa import Sdpa
from towerdsl.kernels.static import Static

CATALOG: tuple[Kernel, ...] = (
    Diagonal(),
    Factored(),
    Static(),
    Edges(),
    Partition(),
    Banded(),
    Merged(),
    Gather(),
    Sdpa(),
    Chunked(),
    Reference(),
)
