"""An adapter on the disk: LoRA weights as peft saves them, differences of modules that were trained whole, a card."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..detokenizer.files import load_tensors, read_json
from .output import write_text

CARD = "limner_adapter.json"
FORMAT = 2
MODULES_KEYS = {1: "extra", 2: "modules_to_save"}
"""By the card's format, its key for the names of the parameters that were trained whole, and the file of their differences"""
MODULES_TO_SAVE = {
    "queries": "mllm.queries",
    "boi": "mllm.boi_delta",
    "input_resampler": "mllm.input_resampler",
    "output_resampler": "mllm.output_resampler",
    "adapter": "detokenizer.adapter",
}
"""Small parts of a model that can be trained whole beside LoRA, as peft's ``modules_to_save``, and their names in it. peft's own
wrapper holds a copy of such a module for each adapter and uses one of them; differences from the base add up."""
STREAMS = ("image", "context")
"""Of an MM-DiT's blocks"""


def mmdit_targets(streams: Sequence[str] = STREAMS) -> str:
    """peft's ``target_modules`` as a regular expression: attention and feed-forward of these streams, without modulations."""
    return rf"blocks\.\d+\.({'|'.join(streams)})\.(qkv|out|mlp\.[02])"


TARGETS = {"llm": "all-linear", "mmdit": mmdit_targets()}
"""What LoRA changes: every linear layer of the backbone but its head; the projections of the MM-DiT's blocks."""

LoraWeights = tuple[Any, dict[str, Tensor]]
"""One part's: peft's `LoraConfig`, and weights keyed as peft does (without its outermost ``base_model.``)"""


def lora_state(tuner: Any, name: str) -> dict[str, Tensor]:
    """The weights of one adapter of a `LoraModel`, keyed as `LoraWeights` are."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(tuner, adapter_name=name, save_embedding_layers=False)


def save(
    folder: Path,
    lora: Mapping[str, LoraWeights],
    differences: Mapping[str, Tensor],
    base: tuple[str, str],
    made: Mapping[str, Any],
) -> None:
    """Write ``lora`` by part in bf16, ``differences`` from the base by the names of its parameters in fp32, and the card with the
    ``base``'s name and fingerprint and how the adapter was ``made``."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, (config, state) in lora.items():
        (folder / part).mkdir(exist_ok=True)
        save_file(
            {f"base_model.{k}": v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in state.items()},
            folder / part / "adapter_model.safetensors",
        )
        in_order = copy.copy(config)
        for name, value in vars(config).items():
            if isinstance(value, set):  # peft makes sets of module names, whose order is another one in every process
                setattr(in_order, name, sorted(value))
        in_order.save_pretrained(folder / part)
    if differences:
        values = {k: v.detach().float().cpu().contiguous() for k, v in differences.items()}
        save_file(values, folder / f"{MODULES_KEYS[FORMAT]}.safetensors")
    card = {
        "format": FORMAT,
        "base": base[0],
        "base_fingerprint": base[1],
        "parts": list(lora),
        MODULES_KEYS[FORMAT]: sorted(differences),
        "made": dict(made),
    }
    write_text(folder / CARD, json.dumps(card, indent=1) + "\n")  # written last: a folder with a card is whole


def read_card(folder: Path) -> dict[str, Any]:
    """Raises ValueError for a folder that holds no adapter of ours."""
    path = folder / CARD
    if not path.exists():
        is_peft = (folder / "adapter_config.json").exists()
        why = " (a bare peft adapter: Limner needs to know its base)" if is_peft else ""
        raise ValueError(f"{folder} holds no Limner adapter: no {CARD}{why}")
    card = read_json(path)
    number = card.get("format")
    modules = MODULES_KEYS[number if number in MODULES_KEYS else FORMAT]
    keys = {"format", "base", "base_fingerprint", "parts", modules, "made"}
    known = isinstance(card.get("parts"), list) and all(part in list(TARGETS) for part in card["parts"])
    if set(card) != keys or number not in MODULES_KEYS or not known:
        raise ValueError(f"{path} cannot be read: expected format {FORMAT} with the keys {', '.join(sorted(keys))}")
    return card


def read_differences(folder: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    """Of the modules that were trained whole, by the names of their parameters. Raises ValueError as `load_tensors` does."""
    modules = MODULES_KEYS[card["format"]]
    return load_tensors(folder / f"{modules}.safetensors") if card[modules] else {}


def read_lora(folder: Path) -> LoraWeights:
    """One part's. Raises ValueError as `load_tensors` does, and for a configuration that this peft does not understand."""
    import peft

    path = folder / "adapter_config.json"
    try:
        config = peft.LoraConfig(**read_json(path))
    except (ValueError, TypeError) as error:  # a newer peft has options that this one lacks
        raise ValueError(f"{path} cannot be read by peft {peft.__version__}: {error}") from error
    weights = load_tensors(folder / "adapter_model.safetensors")
    return config, {key.removeprefix("base_model."): value for key, value in weights.items()}
