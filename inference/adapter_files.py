"""An adapter's files: LoRA weights as peft saves them, differences of parameters that were trained in full, a card."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .output import write_text

CARD = "limner_adapter.json"
FORMAT = 1
STREAMS = ("image", "context")
"""The two streams of an MM-DiT's blocks"""


def mmdit_targets(streams: Sequence[str] = STREAMS) -> str:
    """A regular expression of peft's ``target_modules`` for the projections of these streams."""
    return rf"blocks\.\d+\.({'|'.join(streams)})\.(qkv|out|mlp\.[02])"


TARGETS = {"llm": "all-linear", "mmdit": mmdit_targets()}
"""peft's ``target_modules``: all linear layers of the backbone without its head; the projections of the MM-DiT's blocks."""


def lora_state(tuner: Any, name: str) -> dict[str, Tensor]:
    """LoRA weights of one adapter, with peft's keys (without their outermost ``base_model.``)."""
    from peft import get_peft_model_state_dict

    return get_peft_model_state_dict(tuner, adapter_name=name, save_embedding_layers=False)


def save(
    folder: Path,
    name: str,
    tuners: Mapping[str, Any],
    extra: Mapping[str, Tensor],
    base: tuple[str, str],
    made: Mapping[str, Any],
) -> None:
    """Writes adapter ``name``: LoRA weights of peft's ``tuners``, by part, in bf16, the ``extra`` differences in fp32, and the
    card with name and fingerprint of the ``base`` and the facts of training, ``made``."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [part for part, tuner in tuners.items() if name in tuner.peft_config]
    for part in parts:
        tuner = tuners[part]
        state = lora_state(tuner, name)
        (folder / part).mkdir(exist_ok=True)
        save_file(
            {
                f"base_model.{key}": value.detach().to("cpu", torch.bfloat16).contiguous()
                for key, value in state.items()
            },
            folder / part / "adapter_model.safetensors",
        )
        tuner.peft_config[name].save_pretrained(folder / part)
    if extra:
        save_file({k: v.detach().float().cpu().contiguous() for k, v in extra.items()}, folder / "extra.safetensors")
    card = {
        "format": FORMAT,
        "base": base[0],
        "base_fingerprint": base[1],
        "parts": parts,
        "extra": sorted(extra),
        "made": dict(made),
    }
    write_text(folder / CARD, json.dumps(card, indent=1) + "\n")  # written last: a folder with a card is complete


def read_card(folder: Path) -> dict[str, Any]:
    """The card of an adapter's folder. Raises ValueError for a folder that holds no Limner adapter."""
    path = folder / CARD
    if not path.exists():
        peft = (
            " (a bare peft adapter: Limner needs to know its base)" if (folder / "adapter_config.json").exists() else ""
        )
        raise ValueError(f"{folder} holds no Limner adapter: no {CARD}{peft}")
    try:
        card = json.loads(path.read_text())
        keys = {"format", "base", "base_fingerprint", "parts", "extra", "made"}
        if set(card) != keys or card["format"] != FORMAT or not set(card["parts"]) <= set(TARGETS):
            raise ValueError(f"expected format {FORMAT} with the keys {', '.join(sorted(keys))}")
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
    return card


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Raises ValueError for a file that is missing or cannot be read."""
    if not path.exists():
        raise ValueError(f"the adapter is not whole: no {path}")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error


def read_lora(folder: Path, part: str) -> dict[str, Tensor]:
    """The LoRA weights of a part, with the keys of `lora_state`. Raises ValueError as `read_tensors` does."""
    weights = read_tensors(folder / part / "adapter_model.safetensors")
    return {key.removeprefix("base_model."): value for key, value in weights.items()}


def read_lora_config(path: Path) -> Any:
    """peft's `LoraConfig`. Raises ValueError for a file that is missing or that this peft does not understand."""
    import peft

    try:
        return peft.LoraConfig(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:  # a newer peft has options that this one lacks
        raise ValueError(f"{path} cannot be read by peft {peft.__version__}: {error}") from error
