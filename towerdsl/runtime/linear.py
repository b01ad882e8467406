"""Linear layers of the inference form: weights packed as oneDNN wants them, activations and sums computed with them.

They are torch's own layers wherever oneDNN's operations are not there for what they are given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InferenceModel(nn.Module):
    """A model without gradients: its parameters are frozen, and it is always in evaluation mode."""

    def train(self, mode: bool = True) -> InferenceModel:
        """Refuses to train."""
        if mode:
            raise RuntimeError(f"{type(self).__name__} was compiled for inference; to train it, compile it without")
        return super().train(mode)


def on_onednn(*tensors: Tensor | None) -> bool:
    """Whether oneDNN's fused operations take these: float32 on a CPU, no gradients, not while torch reads the code."""
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu"):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # torch was built without it
        return False
    graded = torch.is_grad_enabled()
    for t in tensors:
        if t is not None and (t.dtype != torch.float32 or not t.is_cpu or (graded and t.requires_grad)):
            return False
    return True


class PackedLinear(nn.Linear):
    """act(x W^T + b), or x W^T + b + plus: [..., in] -> [..., out].

    The weight is packed at the first call, and again after it has changed, by an assignment or in place (but through
    `.data`, whose changes in place torch does not count). Packed weights are not saved.
    """

    #: An activation --> its plain form, and oneDNN's name, numbers and algorithm for it.
    activations: dict[str, tuple[nn.Module, str, tuple[()], str]] = {  # noqa: RUF012
        "none": (nn.Identity(), "none", (), ""),
        "relu": (nn.ReLU(), "relu", (), ""),
        "gelu": (nn.GELU(), "gelu", (), "none"),
        "gelu_tanh": (nn.GELU("tanh"), "gelu", (), "tanh"),
        "silu": (nn.SiLU(), "swish", (), ""),
        "tanh": (nn.Tanh(), "tanh", (), ""),
        "sigmoid": (nn.Sigmoid(), "sigmoid", (), ""),
    }
    packing: tuple[list[tuple[int, int, int]], Tensor, Tensor | None, list[tuple[Tensor, Tensor]]] | None = None

    def forward(self, x: Tensor, activation: str = "none", plus: Tensor | None = None) -> Tensor:
        plain, *fused = self.activations[activation]
        if not on_onednn(x, plus, self.weight):
            y: Tensor = plain(F.linear(x, self.weight, self.bias))
            return y if plus is None else y + plus
        weight, bias = self.packed()
        if plus is None:
            y = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, *fused)
        else:
            y = torch.ops.mkldnn._linear_pointwise.binary(x, plus, weight, bias, "add")
        return y

    def packed(self, *others: PackedLinear) -> tuple[Tensor, Tensor | None]:
        """Packed weight and bias of this layer, with the outputs of other layers behind its own."""
        layers = (self, *others)
        sources = [w for layer in layers for w in (layer.weight, layer.bias) if w is not None]
        if any(w.is_inference() for w in sources):  # their changes are not counted: as they are now, each time
            return self.joined(layers)
        state = [(id(w), w.data_ptr(), w._version) for w in sources]
        if self.packing is None or self.packing[0] != state:
            weight, bias = self.joined(layers)
            # what it was made of is kept, so that nothing else can come to stand at its address
            held = [(w, w.detach()) for w in sources]
            self.packing = (state, torch.ops.mkldnn._reorder_linear_weight(weight), bias, held)
        return self.packing[1:3]

    def joined(self, layers: tuple[PackedLinear, ...]) -> tuple[Tensor, Tensor | None]:
        """Weight and bias of several layers as those of one."""
        if len(layers) == 1:
            return self.weight.detach(), None if self.bias is None else self.bias.detach()
        bias = None if self.bias is None else torch.cat([layer.bias.detach() for layer in layers])
        return torch.cat([layer.weight.detach() for layer in layers]), bias

    def __getstate__(self) -> dict[str, object]:
        return {name: value for name, value in self.__dict__.items() if name != "packing"}


def together(x: Tensor, *layers: PackedLinear) -> tuple[Tensor, ...]:
    """What several linear layers make of one tensor, as one product: their weights are packed as one."""
    alike = all(
        type(layer) is PackedLinear
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and (layer.bias is None) == (layers[0].bias is None)
        for layer in layers
    )
    if not alike or not on_onednn(x, *(layer.weight for layer in layers)):
        return tuple(layer(x) for layer in layers)
    weight, bias = layers[0].packed(*layers[1:])
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight, bias, "none", (), "")
    return y.split_with_sizes([layer.out_features for layer in layers], -1)


def unpacked_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T for a weight that other parts of the model read too: [..., in] -> [..., out]."""
    if not on_onednn(x, weight):
        return F.linear(x, weight)
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight.detach(), None, "none", (), "")
    return y
