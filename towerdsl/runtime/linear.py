"""Linear layers of the inference form: weights packed as oneDNN wants them, activations and sums computed with them.

They are torch's own layers wherever oneDNN's operations are not there for what they are given.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from towerdsl.runtime.captured import captured, plain


class InferenceModel(nn.Module):
    """A model without gradients: its parameters are frozen, and it is always in evaluation mode."""

    def train(self, mode: bool = True) -> InferenceModel:
        """Refuses to train."""
        if mode:
            raise RuntimeError(f"{type(self).__name__} was compiled for inference; to train it, compile it without")
        return super().train(mode)


#: How many multiply-adds win back what a call of oneDNN costs more than one of torch, some 20 microseconds.
MANY = 2**20


def packing_pays(x: Tensor, width: int) -> bool:
    """Whether a linear layer of x, [..., in] -> [..., width], has the work that packed weights make shorter."""
    return captured() or x.numel() * width >= MANY  # while torch reads the code, nothing depends on lengths


def on_onednn(*tensors: Tensor | None) -> bool:
    """Whether oneDNN's fused operations take these: float32 on a CPU, no gradients, not while torch reads the code."""
    if captured() or plain() or torch.is_autocast_enabled("cpu"):
        return False
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # torch was built without it
        return False
    graded = torch.is_grad_enabled()
    for t in tensors:
        if t is not None and (t.dtype != torch.float32 or not t.is_cpu or (graded and t.requires_grad)):
            return False
    return True


class Packing:
    """What is made of weights, kept until they change: by an assignment, or in place.

    Changes in place through `.data` are those that torch does not count. Copies start with nothing; nothing is saved.
    """

    def __init__(self) -> None:
        self.state: list[tuple[int, int, int]] = []
        self.held: list[tuple[Tensor, Tensor]] = []
        self.made: tuple[Tensor, Tensor | None] | None = None

    def of(self, *sources: Tensor | None) -> tuple[Tensor, Tensor | None] | None:
        """What was made, if it was made of these as they are now."""
        try:
            state = [(id(w), w.data_ptr(), w._version) for w in sources if w is not None]
        except RuntimeError:  # made in inference mode: changes of such tensors are not counted
            state = []
        if state and state == self.state:
            return self.made
        # they are kept, so that nothing else can come to stand at their addresses
        self.state, self.held, self.made = state, [(w, w.detach()) for w in sources if w is not None], None
        return None

    def keep(self, weights: list[Tensor], biases: list[Tensor | None]) -> tuple[Tensor, Tensor | None]:
        """Pack the weights of some linear layers as those of one, and keep them."""
        weight = torch.ops.mkldnn._reorder_linear_weight(torch.cat([w.detach() for w in weights]))
        rows = [b.detach() for b in biases if b is not None]
        self.made = weight, torch.cat(rows) if rows else None
        return self.made

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return Packing, ()


class PackedLinear(nn.Linear):
    """act(x W^T + b), or x W^T + b + plus: [..., in] -> [..., out]; the weight is packed at the first call."""

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

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
        self.packing, self.joint = Packing(), Packing()  # alone, and as the first of several

    def forward(self, x: Tensor, activation: str = "none", plus: Tensor | None = None) -> Tensor:
        weight, bias = self.weight, self.bias
        plain, name, numbers, algorithm = self.activations[activation]
        if not packing_pays(x, self.out_features) or not on_onednn(x, plus, weight):
            y: Tensor = plain(F.linear(x, weight, bias))
            return y if plus is None else y + plus
        packed = self.packing.of(weight, bias) or self.packing.keep([weight], [bias])
        if plus is None:
            y = torch.ops.mkldnn._linear_pointwise.default(x, *packed, name, numbers, algorithm)
        else:
            y = torch.ops.mkldnn._linear_pointwise.binary(x, plus, *packed, "add")
        return y


def together(x: Tensor, *layers: PackedLinear) -> tuple[Tensor, ...]:
    """What several linear layers make of one tensor, as one product: the first has the weights of all, packed."""
    weights: list[Tensor] = [layer.weight for layer in layers]
    biases: list[Tensor | None] = [layer.bias for layer in layers]
    one = len({bias is None for bias in biases}) == 1
    for layer in layers:  # those that were replaced, or have hooks that may change what they get, are called alone
        one = one and type(layer) is PackedLinear and not layer._forward_pre_hooks
    one = one and packing_pays(x, sum(layer.out_features for layer in layers))
    if not one or not on_onednn(x, *weights):
        return tuple(layer(x) for layer in layers)
    joint = layers[0].joint
    packed = joint.of(*weights, *biases) or joint.keep(weights, biases)
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, *packed, "none", (), "")
    parts = y.split_with_sizes([layer.out_features for layer in layers], -1)
    return tuple(
        _seen(layer, x, part) if layer._forward_hooks else part for layer, part in zip(layers, parts, strict=True)
    )


def _seen(layer: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """What a layer gives where its result is computed elsewhere, after the hooks that wait for it."""
    for key, hook in layer._forward_hooks.items():
        named: tuple[dict[str, object], ...] = ({},) if key in layer._forward_hooks_with_kwargs else ()
        changed = hook(layer, (x,), *named, y)
        y = y if changed is None else changed
    return y


def unpacked_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x W^T for a weight that other parts of the model read too: [..., in] -> [..., out]."""
    if not packing_pays(x, weight.shape[0]) or not on_onednn(x, weight):
        return F.linear(x, weight)
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, weight.detach(), None, "none", (), "")
    return y
