"""All kernels, in order of preference where they are estimated to be equally fast."""

from __future__ import annotations

from towerdsl.kernels.base import Kernel
from towerdsl.kernels.diagonal import Diagonal
from towerdsl.kernels.reference import Reference
from towerdsl.kernels.sdpa import Sdpa

CATALOG: tuple[Kernel, ...] = (Diagonal(), Sdpa(), Reference())
