"""Networks made ready for inference: batch norms folded into convolutions, activations and sums computed inside them.

Folding is exact up to rounding. oneDNN on a CPU, and cuDNN on a GPU for ReLU, take the activation that follows a
convolution, and the residual sum before it, into the convolution itself: the map is written to memory once instead of
three times. Networks whose control flow depends on the image (vision transformers) say that they are not traceable, and
stay as they are.
"""

from __future__ import annotations

import copy
import logging
import operator
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from pipeline.features.packaged import LiteMap

log = logging.getLogger("sightline")

ACTIVATIONS: dict[type[nn.Module], tuple[str, list[float]]] = {
    nn.ReLU: ("relu", []),
    nn.ReLU6: ("hardtanh", [0.0, 6.0]),
    nn.Hardswish: ("hardswish", []),
    nn.SiLU: ("swish", []),
}
"""Activation -> its name and scalars among oneDNN's post-operations."""


UNSUPPORTED = ("not_supported", "unable to find an engine", "no valid execution plan", "not supported")
"""What cuDNN says of a convolution that it has no fused kernel for."""


_TRACING = threading.Lock()


class _Tracer(fx.Tracer):
    """Traces for its own thread only: torch reroutes the calls of all modules meanwhile, those of other threads too."""

    def __init__(self) -> None:
        super().__init__()
        self._thread = threading.get_ident()

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Record a call of this thread; make it for any other."""
        if threading.get_ident() != self._thread:
            return forward(*args, **kwargs)
        return super().call_module(m, forward, args, kwargs)

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """Return the attribute, for this thread as torch wants it recorded."""
        if threading.get_ident() != self._thread:
            return attr_val
        return super().getattr(attr, attr_val, parameter_proxy_cache)


class FusedConv(nn.Module):
    """A convolution that adds another map, if it is given one, and applies an activation. (N,C,H,W) -> (N,D,h,w)."""

    def __init__(self, conv: nn.Conv2d, activation: str, scalars: list[float]) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self._shape = (list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups)
        self._activation, self._scalars = activation, scalars

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return activation(conv(x) + other)."""
        kernel: Any = torch.ops.mkldnn._convolution_pointwise
        if other is None:
            alone: Tensor = kernel(x, self.weight, self.bias, *self._shape, self._activation, self._scalars, "")
            return alone
        activation = None if self._activation == "none" else self._activation
        added: Tensor = kernel.binary(
            x, other, self.weight, self.bias, *self._shape, "add", 1.0, activation, self._scalars, None
        )
        return added


class CudnnConv(nn.Module):
    """The same by cuDNN, for ReLU alone. (N,C,H,W) -> (N,D,h,w).

    Which convolutions it has fused kernels for depends on shapes, types and the card: what is refused once is computed
    in steps from then on. fused, added: the kernels of convolution and ReLU, and of convolution, sum and ReLU.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        fused: Callable[..., Tensor] = torch.cudnn_convolution_relu,
        added: Callable[..., Tensor] = torch.cudnn_convolution_add_relu,
    ) -> None:
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self._shape: tuple[Any, ...] = (list(conv.stride), list(conv.padding), list(conv.dilation), conv.groups)
        self._fused, self._added = fused, added
        self._refused = False

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Return relu(conv(x) + other)."""
        if not self._refused:
            try:
                if other is None:
                    return self._fused(x, self.weight, self.bias, *self._shape)
                return self._added(x, self.weight, other, 1.0, self.bias, *self._shape)
            except RuntimeError as error:
                if not any(phrase in str(error).lower() for phrase in UNSUPPORTED):
                    raise
                self._refused = True
                log.info("no fused kernel for a convolution of %s: %s", tuple(self.weight.shape), str(error)[:120])
        made = nn.functional.conv2d(x, self.weight, self.bias, *self._shape)
        return (made if other is None else made.add_(other)).relu_()


@dataclass(frozen=True, kw_only=True)
class Kernels:
    """What a device computes inside a convolution: `activations`, and whether sums that none follows (`bare_sums`).

    make: the module of a convolution and its activation; takes: whether there is one for a convolution.
    """

    activations: dict[type[nn.Module], tuple[str, list[float]]]
    make: Callable[[nn.Conv2d, str, list[float]], nn.Module]
    takes: Callable[[nn.Conv2d], bool] = lambda _: True
    bare_sums: bool = True


CUDNN = Kernels(
    activations={nn.ReLU: ACTIVATIONS[nn.ReLU]},
    make=lambda conv, _name, _scalars: CudnnConv(conv),
    # Depthwise convolutions have kernels of torch's own.
    takes=lambda conv: conv.groups == 1,
    bare_sums=False,
)


def optimized(
    network: nn.Module,
    device: torch.device,
    dtype: torch.dtype,
    kernels: Kernels | Literal["device"] | None = "device",
) -> nn.Module:
    """Return a network (N,3,H,W) -> (N,C,h,w) of equal values up to rounding, in `dtype`, channels last, on a device.

    A network that cannot be traced stays in float32; see `is_optimized`. kernels: what is fused, by default what the
    device has kernels for; None: nothing.
    """
    if not getattr(network, "traceable", True):
        return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]
    copied = network.plain() if isinstance(network, LiteMap) else copy.deepcopy(network)
    with _TRACING:
        graph = fx.GraphModule(copied, _Tracer().trace(copied))
    _fold(graph)
    kernels = _kernels(device) if kernels == "device" else kernels
    if kernels is not None:
        _fuse(graph, kernels)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.graph.lint()
    graph.recompile()
    made: nn.Module = graph.to(device=device, dtype=dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return made.eval().requires_grad_(False)


def is_optimized(network: nn.Module) -> bool:
    """Return whether `optimized` has changed a network, which then takes input in the dtype that was asked for."""
    return isinstance(network, fx.GraphModule)


def _kernels(device: torch.device) -> Kernels | None:
    """Return the fused kernels of a device, if it has any."""
    if device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return _onednn()
    return CUDNN if device.type == "cuda" and torch.backends.cudnn.is_available() else None  # type: ignore[no-untyped-call]


def _fold(graph: fx.GraphModule) -> None:
    modules = dict(graph.named_modules())
    for node in list(graph.graph.nodes):
        norm = modules.get(node.target) if node.op == "call_module" else None
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        conv = _only_conv(node.args[0], modules)
        if conv is None:
            continue
        source = node.args[0]
        modules[source.target] = fuse_conv_bn_eval(conv, norm)
        _replace(graph, source.target, modules[source.target])
        node.replace_all_uses_with(source)
        graph.graph.erase_node(node)


def _onednn() -> Kernels:
    return Kernels(activations=ACTIVATIONS, make=FusedConv)


def _fuse(graph: fx.GraphModule, kernels: Kernels | None = None) -> None:
    """Fuse by the kernels of a device, oneDNN's when none are given."""
    kernels = kernels or _onednn()
    modules = dict(graph.named_modules())
    order = {node: place for place, node in enumerate(graph.graph.nodes)}
    for node in list(graph.graph.nodes):
        if node.op == "call_module" and type(modules.get(node.target)) in kernels.activations:
            activation = kernels.activations[type(modules[node.target])]
            source = node.args[0]
            if _is_sum(source) and len(source.users) == 1:
                parts = _summands(source, modules, order)
            else:
                parts = None if _only_conv(source, modules) is None else (source, None)
        elif _is_sum(node) and kernels.bare_sums and not any(_is_activation(user, modules) for user in node.users):
            parts, activation = _summands(node, modules, order), ("none", [])
        else:
            continue
        conv = None if parts is None else _only_conv(parts[0], modules)
        if parts is not None and conv is not None and kernels.takes(conv):
            _take_in(graph, node, parts, kernels.make(conv, *activation))


def _take_in(graph: fx.GraphModule, node: fx.Node, parts: tuple[fx.Node, fx.Node | None], fused: nn.Module) -> None:
    """Put a fused convolution in the place of a node; what it took in has no users left."""
    source, other = parts
    name = f"fused_{node.name}"
    graph.add_submodule(name, fused)
    with graph.graph.inserting_before(node):
        arguments = (source.args[0],) if other is None else (source.args[0], other)
        made = graph.graph.call_module(name, arguments)
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)


def _summands(
    node: fx.Node, modules: dict[str, nn.Module], order: dict[fx.Node, int]
) -> tuple[fx.Node, fx.Node | None] | None:
    """Return (convolution, other) of a sum: of two convolutions the later, whose map nobody has read yet."""
    nodes = [part for part in node.args if isinstance(part, fx.Node)]
    convs = [part for part in nodes if _only_conv(part, modules) is not None]
    if len(nodes) != 2 or not convs:
        return None
    conv = max(convs, key=lambda part: order.get(part, 0))
    return conv, nodes[1] if conv is nodes[0] else nodes[0]


def _only_conv(node: Any, modules: dict[str, nn.Module]) -> nn.Conv2d | None:
    """Return the plain convolution behind a node whose result has one reader."""
    if not isinstance(node, fx.Node) or node.op != "call_module" or len(node.users) != 1:
        return None
    module = modules.get(str(node.target))
    plain = isinstance(module, nn.Conv2d) and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return module if plain else None  # type: ignore[return-value]


def _is_sum(node: Any) -> bool:
    return isinstance(node, fx.Node) and node.op == "call_function" and node.target in {operator.add, operator.iadd}


def _is_activation(node: fx.Node, modules: dict[str, nn.Module]) -> bool:
    return node.op == "call_module" and type(modules.get(str(node.target))) in ACTIVATIONS


def _replace(graph: fx.GraphModule, name: str, module: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(graph.get_submodule(parent), leaf, module)
