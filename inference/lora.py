"""LoRA (Hu et al. 2021, arXiv:2106.09685) in the linear layers of a module, by peft."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.utils import parametrize

MAX_FUSED_BYTES = 2**30
"""Bytes of weights up to which LoRA is added to a copy of them: in a small model LoRA's own calls take as long as its linear
layers', in a large one they are a few hundredths and a copy of the weights is dear."""

Module = TypeVar("Module", bound=nn.Module)


def view_of(module: Module, parts: Collection[str]) -> Module:
    """A copy in which the submodules ``parts`` are copies too; the other ones and all tensors are ``module``'s own.

    What is put into it does not change ``module``, what is written into ``module``'s weights shows in it.
    """
    view = copy.copy(module)
    for name in ("_parameters", "_buffers", "_modules"):
        view.__dict__[name] = dict(module.__dict__[name])
    for part in parts:
        inner = module.get_submodule(part)
        shared = itertools.chain(inner.parameters(), inner.buffers(), forward_hooks(inner))
        view._modules[part] = copy.deepcopy(inner, {id(own): own for own in shared})
    return view


def forward_hooks(module: nn.Module) -> Iterator[Callable[..., Any]]:
    """What was registered to be called before and after the forwards of a module and of those in it."""
    for part in module.modules():
        yield from part._forward_pre_hooks.values()
        yield from part._forward_hooks.values()


def check_plain(module: nn.Module) -> None:
    """Raises ValueError for weights that are computed of others: nothing can be written into them, and a folder has no place
    for what they are computed of."""
    for name, part in module.named_modules():
        if parametrize.is_parametrized(part):
            raise ValueError(
                f"{name} is parametrized: take that off first (torch.nn.utils.parametrize.remove_parametrizations)"
            )


def inject(module: nn.Module, configs: Mapping[str, Any]) -> Any:
    """Wrap linear layers of ``module`` in place with fresh LoRA weights of its precision, a `LoraConfig` an adapter.

    Returns peft's `LoraModel`. Which of the module's own parameters learn stays as it was.
    """
    from peft.tuners.lora import LoraModel

    learns = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    (first, config), *others = configs.items()
    tuner = LoraModel(module, {first: config}, first)
    for name, config in others:
        tuner.peft_config[name] = config
        tuner.inject_adapter(module, name, autocast_adapter_dtype=False)
    dtype = learns[0][0].dtype
    for key, parameter in module.named_parameters():
        if any(f".{name}." in key for name in configs):
            parameter.data = parameter.data.to(dtype)
    for parameter, flag in learns:
        parameter.requires_grad_(flag)
    return tuner


def remove(tuner: Any) -> None:
    """Takes away what `inject` put in."""
    module = tuner.unload()
    for name in ("peft_config", "active_adapter", "active_adapters"):
        module.__dict__.pop(name, None)


def set_scale(module: nn.Module, weights: Mapping[str, float]) -> None:
    """Each adapter acts at its weight from now on; what learns and what does not stays as it is."""
    from peft.tuners.lora import LoraLayer

    for layer in module.modules():
        if isinstance(layer, LoraLayer):
            for name in weights.keys() & layer.scaling.keys():
                layer.set_scale(name, weights[name])
            # peft computes what weighs nothing too; its own switch, `enable_adapters`, would change what learns
            layer._disable_adapters = not any(layer.scaling.values())


@torch.no_grad()
def fuse(module: nn.Module, names: Sequence[str]) -> None:
    """In a view: ``W + Σ s · B A`` in new weights takes the place of W, up to `MAX_FUSED_BYTES`. LoRA of other kinds (a bias,
    DoRA) is computed beside the weights as before."""
    from peft.tuners.lora import LoraLayer

    layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer)]
    size = sum(layer.get_base_layer().weight.nbytes for layer in layers)
    if size > MAX_FUSED_BYTES or not all(map(is_plain, layers)):
        return
    for layer in layers:
        base, merged = layer.get_base_layer(), [name for name in names if name in layer.scaling]
        weight = base.weight
        for name in merged:  # peft's own merge reads and writes the weights four times as often
            weight = torch.addmm(
                weight, layer.lora_B[name].weight, layer.lora_A[name].weight, alpha=layer.scaling[name]
            )
        base.weight = nn.Parameter(weight, requires_grad=False)
        layer.merged_adapters = merged  # what peft does not compute again


def is_plain(layer: Any) -> bool:
    """LoRA as its paper has it."""
    return (
        # no subclass: a parametrization's weight cannot be replaced, and writing to it would change the model's own
        type(layer.get_base_layer()) is nn.Linear and not layer.lora_variant and not any(layer.lora_bias.values())
    )
