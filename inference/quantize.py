"""8- and 4-bit weights through bitsandbytes, an optional extra: less memory, slightly less exact.

accelerate's `load_and_quantize_model` does it on a GPU only.

Dettmers et al. 2022, arXiv:2208.07339 (LLM.int8); Dettmers et al. 2023, arXiv:2305.14314 (NF4).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from .isolation import isolated
from .model import Limner

BITS = (8, 4)


@isolated
def quantize(model: Limner, bits: int) -> Limner:
    """Quantises the linear layers of backbone and transformer to 8 or 4 bits, in place. Returns the model.

    Raises ValueError for another number of bits, without bitsandbytes, and for a model with active adapters.
    """
    check_bits(bits)
    if model.bits is not None:
        raise ValueError(f"this model has weights of {model.bits} bits already")
    if model.get_active_adapters():
        raise ValueError("adapters are loaded: merge_adapters() first, then take fewer bits")
    import bitsandbytes as bnb

    def quantized(layer: nn.Linear) -> nn.Module:
        shape = (layer.in_features, layer.out_features, layer.bias is not None)
        weight = layer.weight.data
        if bits == 8:
            made = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False, device="meta")
            made.weight = bnb.nn.Int8Params(weight.contiguous(), requires_grad=False, has_fp16_weights=False)
        else:
            made = bnb.nn.Linear4bit(*shape, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
            made.weight = bnb.nn.Params4bit(weight.contiguous(), requires_grad=False, quant_type="nf4")
        made.bias = layer.bias
        made.train(layer.training)
        return made.to(weight.device)  # bitsandbytes packs the weight when it is moved

    for parent, name, layer in list(linear_layers(model)):
        setattr(parent, name, quantized(layer))
        del layer
    model.bits = bits
    return model


def check_bits(bits: int) -> None:
    """Raises ValueError for another number of bits than `BITS`, and without bitsandbytes."""
    if bits not in BITS:
        raise ValueError(f"weights of {bits} bits; they can have {' or '.join(map(str, BITS))}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError as error:
        raise ValueError(f"weights of {bits} bits need bitsandbytes: install limner[quantized] ({error})") from None


def linear_layers(model: Limner) -> Iterator[tuple[nn.Module, str, nn.Linear]]:
    """Parent, name and module of the linear layers in the backbone and the transformer's blocks, without the backbone's head
    and the embeddings of timestep and pooled vector."""
    head = model.mllm.llm.get_output_embeddings()
    transformer = model.detokenizer.transformer
    for root in (model.mllm.llm, getattr(transformer, "blocks", transformer)):
        for parent in root.modules():
            for name, layer in parent.named_children():
                if type(layer) is nn.Linear and layer is not head:
                    yield parent, name, layer
