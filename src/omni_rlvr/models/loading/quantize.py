"""Quantise the linear layers of a language model to 4 bits, for adapters that train: QLoRA.

Weights are loaded unquantised. Then each linear layer of the blocks is replaced by one of
bitsandbytes, with one of 16 values (NF4) for each weight, a scale for each 64 weights, and the
scales in 8 bits. Towers, norms, embeddings and the output head are not quantised.

Reference: QLoRA: Efficient Finetuning of Quantized LLMs, arXiv 2305.14314.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from omni_rlvr.models.adapters.lora import is_adapter
from omni_rlvr.models.loading.untrusted import import_bitsandbytes
from omni_rlvr.models.policy import Policy
from omni_rlvr.types import UserError

NF4 = "nf4"
KEY = "model.options.quantize"
BLOCK, SCALES_BLOCK = 64, 256
"""Weights that share a scale, and scales that share a second scale; bitsandbytes' defaults."""


def quantize(policy: Policy) -> None:
    """Quantise the language model's linear layers to 4 bits, in place.

    Args:
        policy: A policy on the CPU or a CUDA device, without adapters, all of it frozen.

    Raises:
        UserError: The model cannot be quantised, or bitsandbytes is not installed.
    """
    check_can_quantize(policy)
    library = bitsandbytes()
    for name, layer in linear_layers(policy).items():
        _replace(policy, name, _packed(library, layer))


def dequantize(policy: Policy) -> None:
    """Replace quantised layers by ordinary linear layers with the rounded weights, in place."""
    layers = [
        (name, module)
        for name, module in policy.named_modules()
        if isinstance(module, nn.Linear) and not module.weight.is_floating_point()
    ]
    for name, layer in layers:
        packed: Any = layer.weight
        weight = bitsandbytes().functional.dequantize_4bit(packed.data, packed.quant_state)
        plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = layer.bias
        _replace(policy, name, plain.train(layer.training))


def quantized(policy: Policy) -> str | None:
    """Return the kind of quantisation of a policy's layers; None without."""
    every = policy.language_model.model.parameters()
    return None if all(weight.is_floating_point() for weight in every) else NF4


def check_can_quantize(policy: Policy) -> None:
    """Refuse a model that would hardly get smaller, or whose outputs would be wrong.

    Args:
        policy: A policy with weights, or on the meta device.

    Raises:
        UserError: Its experts are not linear layers, or the length of a layer's rows is not a
            multiple of ``BLOCK``.
    """
    fused = [name for name, weight in policy.language_model.named_parameters() if weight.ndim == 3]
    if fused:
        raise UserError(
            f"{KEY}={NF4}: the experts of this model are not linear layers ({fused[0]}), and "
            "bitsandbytes quantises nothing else, so that nearly all weights would stay as they "
            "are; leave it out and train with model/trainable=lora on more or larger devices"
        )
    for name, layer in linear_layers(policy).items():
        if layer.in_features % BLOCK:
            raise UserError(
                f"{KEY}={NF4}: {name} has rows of {layer.in_features} weights, but bitsandbytes is "
                f"correct on every device only for multiples of {BLOCK}; leave it out"
            )


def linear_layers(policy: Policy) -> dict[str, nn.Linear]:
    """Find the layers to quantise, by their names in the policy."""
    layers = policy.language_model.model.modules()
    inside = {id(layer) for layer in layers if isinstance(layer, nn.Linear)}
    return {
        name: layer
        for name, layer in policy.named_modules()
        if isinstance(layer, nn.Linear) and id(layer) in inside and not is_adapter(name)
    }


def num_weights(weight: Tensor) -> int:
    """Count the weights in a tensor, which may hold two in each byte."""
    return weight.numel() if weight.is_floating_point() else 2 * weight.numel()


def packed_bytes(weight: Tensor) -> int:
    """Count the bytes of a quantised weight with its scales."""
    blocks = -(-weight.numel() // BLOCK)
    return -(-weight.numel() // 2) + blocks + 4 * -(-blocks // SCALES_BLOCK)


def bitsandbytes() -> Any:
    """Import bitsandbytes, which an extra of this package installs.

    Raises:
        UserError: It is not installed; says how to install it.
    """
    library = import_bitsandbytes()
    if library is None:
        raise UserError(
            f"{KEY}={NF4}: bitsandbytes cannot be imported; pip install 'omni-rlvr[qlora]'"
        )
    return library


def _packed(library: Any, layer: nn.Linear) -> nn.Linear:
    """Make a quantised layer that computes in the dtype of the given layer's weights."""
    packed = library.nn.Linear4bit(
        layer.in_features,
        layer.out_features,
        bias=False,
        compute_dtype=layer.weight.dtype,
        quant_type=NF4,
        device="meta",
    )
    weight = library.nn.Params4bit(layer.weight.data, requires_grad=False, quant_type=NF4)
    packed.weight = weight.to(layer.weight.device)  # quantises the weights
    packed.bias = layer.bias
    # Otherwise its first pass without gradient reorders the weights for a matrix product that has
    # no backward.
    packed.support_avx512bf16_for_cpu = False
    return packed.train(layer.training)


def _replace(policy: Policy, name: str, layer: nn.Linear) -> None:
    parent, _, last = name.rpartition(".")
    setattr(dict(policy.named_modules())[parent], last, layer)
