"""Block expansion: new layers for a trained backbone that at first change nothing (Wu et al. 2024, arXiv:2401.02415)."""

from __future__ import annotations

import copy

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

OUTPUT_PROJECTIONS = ("o_proj", "down_proj")
"""The projections of a layer that add to the residual stream; they are zero in new layers."""


@torch.no_grad()
def expand_blocks(llm: PreTrainedModel, layers: int) -> PreTrainedModel:
    """``llm`` with ``layers`` layers: after its own come copies of the last one whose output projections are zero.

    Raises ValueError for a backbone whose layers have no `OUTPUT_PROJECTIONS`.
    """
    config = copy.deepcopy(llm.config)
    had = config.num_hidden_layers
    assert layers >= had
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = [*config.layer_types, *config.layer_types[-1:] * (layers - had)]
    parameter = next(llm.parameters())
    deeper = AutoModelForCausalLM.from_config(config, attn_implementation=llm.config._attn_implementation)
    deeper.to(parameter.device, parameter.dtype)
    missing, unexpected = deeper.load_state_dict(llm.state_dict(), strict=False)
    own, new = deeper.get_decoder().layers[:had], deeper.get_decoder().layers[had:]
    assert not unexpected and len(missing) == sum(len(layer.state_dict()) for layer in new)
    for layer in new:
        layer.load_state_dict(own[-1].state_dict())
        written = [part for name, part in layer.named_modules() if name.rsplit(".", 1)[-1] in OUTPUT_PROJECTIONS]
        if len(written) != len(OUTPUT_PROJECTIONS) or not all(isinstance(part, nn.Linear) for part in written):
            raise ValueError(
                f"{config.model_type} layers do not write through {', '.join(OUTPUT_PROJECTIONS)}: nothing to make it deeper"
            )
        for part in written:
            for values in part.parameters():
                values.zero_()
    return deeper.train(llm.training)
