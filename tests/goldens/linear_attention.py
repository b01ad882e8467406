"""LinearAttention: compiled by towerdsl 0.1.0 from linear_attention.yaml."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime import causal_product, holds_everywhere
from towerdsl.runtime.inputs import as_declared


class Performer(nn.Module):
    """performer(x, keep), linear_attention.yaml:10.

        y[i] = sum over j of w[i, j] * v[j]
        f[i, j] = dot(exp(dot(w, q[i]) - dot(q[i], q[i]) / 2), exp(dot(w, k[j]) - dot(k[j], k[j]) / 2))
        w[i, j] = f / sum of f
        j is visible to i where keep[j]

    Averaged over n, heads merged by concat; kernel: factored.

    x float[b, n, d=8], keep bool[b, n] -> float[b, n, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(6, 4))
        nn.init.normal_(self.w, std=0.02)
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)
        self.value = nn.Linear(8, 8)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        q = self.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 4)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (2, 4)).transpose(1, 2)
        wide = torch.promote_types(q.dtype, torch.float32)
        v = F.pad(v.to(wide), (0, 1), value=1.0)
        if keep is not None:
            v = v.masked_fill(~keep[:, None, :, None], 0.0)
        right = torch.exp(
            torch.einsum("fd,bhjd->bhjf", self.w, k)
            - torch.einsum("bhjd,bhjd->bhj", k.to(wide) / 2, k.to(wide))[:, :, :, None]
        )
        kv = torch.einsum("bhja,bhjd->bhad", right, v)
        left = torch.exp(
            torch.einsum("fd,bhid->bhif", self.w, q)
            - torch.einsum("bhid,bhid->bhi", q.to(wide) / 2, q.to(wide))[:, :, :, None]
        )
        y = torch.einsum("bhia,bhad->bhid", left, kv)
        total = y[..., -1:]
        empty = total == 0
        y = (y[..., :-1] / total.masked_fill(empty, 1.0)).masked_fill(empty, 0.0).to(q.dtype)
        return y.transpose(1, 2).flatten(-2)


class Earlier(nn.Module):
    """earlier(x, keep), linear_attention.yaml:19.

        y[i] = sum over j of w[i, j] * v[j]
        f[i, j] = dot(q[i], k[j]) / dk
        w[i, j] = f / number of visible j
        j is visible to i where keep[j] and j <= i

    Averaged over n, heads merged by concat; kernel: factored.

    x float[b, n, d=8], keep bool[b, n] -> float[b, n, d=8]
    """

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Linear(8, 8)
        self.key = nn.Linear(8, 8)
        self.value = nn.Linear(8, 8)

    def forward(self, x: Tensor, keep: Tensor | None) -> Tensor:
        n = x.shape[1]
        q = self.query(x).unflatten(-1, (2, 4)).transpose(1, 2)
        k = self.key(x).unflatten(-1, (2, 4)).transpose(1, 2)
        v = self.value(x).unflatten(-1, (2, 4)).transpose(1, 2)
        wide = torch.promote_types(q.dtype, torch.float32)
        v = v.to(wide)
        if keep is not None:
            v = v.masked_fill(~keep[:, None, :, None], 0.0)
        i = torch.arange(n, device=q.device)
        count = (i + 1)[:, None]
        if keep is not None:
            count = keep.cumsum(-1).clamp(min=1)[:, None, :, None]
        y = causal_product(q.to(wide), k.to(wide), v, 64) * 0.25 / count
        return y.to(q.dtype).transpose(1, 2).flatten(-2)


class LinearAttention(nn.Module):
    """LinearAttention, compiled from linear_attention.yaml.

    Attention whose score is a product of features, with random ones (Performer), and with earlier keys
    alone.

    Inputs:
        x: float[b, n, d=8]
        keep: bool[b, n] = true
    Output:
        result: float[b, n, d=8]
    """

    inputs = {
        "x": "float[b, n, d=8], in the model's dtype",
        "keep": "bool[b, n] = true",
    }

    def __init__(self) -> None:
        super().__init__()
        self.performer = Performer()
        self.earlier = Earlier()

    def forward(self, x: Tensor, keep: Tensor | None = None) -> Tensor:
        x, keep = as_declared(self, x, keep)
        if holds_everywhere(keep):
            keep = None  # attention is faster without a mask that hides nothing
        return self.performer(x, keep) + self.earlier(x, keep)
