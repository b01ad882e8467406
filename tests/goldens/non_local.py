"""NonLocal: compiled by towerdsl 0.1.0 from specs/level5/non_local.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime.inputs import as_declared


class NonLocalBlock(nn.Module):
    """non_local(x[b, c, space]), specs/level5/non_local.yaml:18.

        y[i] = sum over j of w[i, j] * v[j]
        w[i, j] = dot(q[i], k[j]) / number of visible j

    Averaged over h, w; kernel: factored.

    x float[b, c=16, h, w] -> float[b, c=16, h, w]
    """

    def __init__(self) -> None:
        super().__init__()
        self.theta = nn.Conv2d(16, 8, 1)
        self.phi = nn.Conv2d(16, 8, 1)
        self.g = nn.Conv2d(16, 8, 1)
        self.w = nn.Conv2d(8, 16, 1)
        self.norm = nn.BatchNorm2d(16).apply(lambda norm: nn.init.constant_(norm.weight, 0.0))

    def forward(self, x: Tensor) -> Tensor:
        _, _, h, w = x.shape
        q = self.theta(x).permute(0, 2, 3, 1)
        k = F.max_pool2d(self.phi(x), 2).permute(0, 2, 3, 1)
        v = F.max_pool2d(self.g(x), 2).permute(0, 2, 3, 1)
        wide = torch.promote_types(q.dtype, torch.float32)
        v = v.to(wide)
        kv = torch.einsum("bHWd,bHWm->bdm", k.to(wide), v) / max((h // 2) * (w // 2), 1)
        y = torch.einsum("bdm,bhwd->bmhw", kv, q.to(wide)).to(q.dtype)
        return self.norm(self.w(y))


class NonLocal(nn.Module):
    """NonLocal, compiled from specs/level5/non_local.yaml.

    Wang et al. 2018, arXiv:1711.07971

    Each position of an image, or of a film, is a weighted average of all positions; f, g and C are free
    to choose.

    Chosen:
        kind = 'dot', not embedded_gaussian, gaussian or concat

    Inputs:
        x: float[b, c=16, h, w]
    Output:
        result: float[b, c=16, h, w]
    """

    checkpoints = {
        "paper": {
            "rules": {
                "theta.{p}": "non_local.theta.{p}",
                "phi.{p}": "non_local.phi.{p}",
                "g.{p}": "non_local.g.{p}",
                "w_f": "concat(non_local.wq, non_local.wk)",
                "W_z.{p}": "non_local.w.{p}",
                "norm.{p}": "non_local.norm.{p}",
            },
        },
    }

    inputs = {
        "x": "float[b, c=16, h, w], in the model's dtype",
    }

    def __init__(self) -> None:
        super().__init__()
        self.non_local = NonLocalBlock()

    def forward(self, x: Tensor) -> Tensor:
        (x,) = as_declared(self, x)
        return x + self.non_local(x)
