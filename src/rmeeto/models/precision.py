"""Fewer bits for inference: bfloat16 weights, or 8-bit weights of the large matrix products."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from rmeeto.errors import SettingsError
from rmeeto.models.vim import cast_weights

# Called as layers; x_proj and dt_proj are weights inside one op.
_QUANTISED = ("in_proj", "out_proj", "head")


def to_precision(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Give a model's weights a dtype, in place, for inference.

    Args:
        model: a Vision Mamba, merged or not; for torch.int8 on the CPU.
        dtype: a floating-point type, see `cast_weights`: images must then have it, too. Or torch.int8: the weights of
            in_proj, out_proj and head become 8-bit integers, and their inputs in each call (torch's dynamic
            quantisation); images stay float32, and the model can be neither trained nor saved any more.

    Raises:
        SettingsError: another type, 8 bits anywhere but on a CPU, or this torch or machine has no 8-bit products.
    """
    return _quantised(model) if dtype is torch.int8 else cast_weights(model, dtype)


def _quantised(model: nn.Module) -> nn.Module:
    layers = {name: layer for name, layer in model.named_modules() if name.rsplit(".", 1)[-1] in _QUANTISED}
    chosen = {name: layer for name, layer in layers.items() if isinstance(layer, nn.Linear)}
    if any(layer.weight.dtype is not torch.float32 for layer in chosen.values()):
        raise SettingsError("int8 is made of float32 weights and this model has others; cast it to torch.float32 first")
    if elsewhere := sorted({str(layer.weight.device) for layer in chosen.values()} - {"cpu"}):
        raise SettingsError(f"int8 is computed on CPUs and this model is on {elsewhere[0]}; move it, or use bfloat16")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells of its successor, another package
            from torch.ao.quantization import default_dynamic_qconfig, quantize_dynamic

            for layer in chosen.values():
                layer.__class__ = nn.Linear  # torch maps exact types, and ours computes the same
            return quantize_dynamic(model, dict.fromkeys(chosen, default_dynamic_qconfig), inplace=True)
    except (ImportError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"int8 cannot be had with this torch on this machine ({reason}); use bfloat16") from None
