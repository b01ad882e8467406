"""All kernels, in order of preference where they are estimated to be equally fast."""

from __future__ import annotations

from towerdsl.kernels.banded import Banded
from towerdsl.kernels.base import Kernel
from towerdsl.kernels.chunked import Chunked
from towerdsl.kernels.diagonal import Diagonal
from towerdsl.kernels.merged import Merged
from towerdsl.kernels.partition import Partition
from towerdsl.kernels.reference import Reference
from towerdsl.kernels.sdpa import Sdpa

CATALOG: tuple[Kernel, ...] = (Diagonal(), Partition(), Banded(), Merged(), Sdpa(), Chunked(), Reference())
