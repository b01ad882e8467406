"""All kernels, in order of preference: the first that does not refuse is chosen."""

from __future__ import annotations

from towerdsl.kernels.base import Kernel
from towerdsl.kernels.diagonal import Diagonal
from towerdsl.kernels.factored import Factored
from towerdsl.kernels.gather import Gather
from towerdsl.kernels.reference import Reference
from towerdsl.kernels.sdpa import Sdpa
from towerdsl.kernels.static import Static

CATALOG: tuple[Kernel, ...] = (Diagonal(), Factored(), Static(), Gather(), Sdpa(), Reference())
