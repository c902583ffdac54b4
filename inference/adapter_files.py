"""An adapter on the disk: LoRA weights as peft saves them, differences of modules that were trained whole, a card."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..detokenizer.files import check_types, in_a_line, is_of_type, load_tensors, read_json
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

MAX_STUDENT_STEPS = 1000
MAX_RANK = 1 << 16

PLAIN_LORA = (
    *("r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("rank_pattern", "alpha_pattern", "use_rslora", "use_dora", "lora_bias", "fan_in_fan_out", "bias"),
    *("base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"),
    *("init_lora_weights", "ensure_weight_tying", "megatron_core"),
)
"""peft's options that an adapter may set. Others have their default: they write into the base's weights when they are put in,
name modules to import, or stand for layers that Limner does not put in."""
INITIAL_VALUES = (True, False, "gaussian", "orthogonal", "eva")
"""Of LoRA's own weights alone. The other kinds (PiSSA, OLoRA, CorDA, LoftQ) change the base's, too."""
REPEATED_REPEAT = re.compile(r"\([^()]*[+*}][^()]*\)[?]?[+*{]|[+*}][+*{]")
"""In a regular expression: what may take for ever to match, such as ``(a+)+``"""


class Card(TypedDict):
    """The types of `CARD`'s values but the names of modules, whose key depends on the format."""

    format: int
    base: str
    base_fingerprint: str
    parts: list[str]
    made: dict[str, Any]


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
    check_types(card, Card, path)
    names = card[modules]
    steps = card["made"].get("student_steps")
    if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise ValueError(f"{path}: {modules} is {names!r:.60}, not a list of names")
    if not (steps is None or (type(steps) is int and 0 < steps <= MAX_STUDENT_STEPS)):
        raise ValueError(f"{path}: student_steps is {steps!r:.60}; it can be 1 to {MAX_STUDENT_STEPS}")
    if len(set(card["parts"])) < len(card["parts"]):
        raise ValueError(f"{path}: a part is named twice")
    return card


def read_differences(folder: Path, card: Mapping[str, Any]) -> dict[str, Tensor]:
    """Of the modules that were trained whole, by the names of their parameters. Raises ValueError as `load_tensors` does."""
    modules = MODULES_KEYS[card["format"]]
    return load_tensors(folder / f"{modules}.safetensors") if card[modules] else {}


def check_lora(options: Mapping[str, Any], config: Any, path: Path) -> None:
    """Raises ValueError for a `LoraConfig` (its ``options`` in the file ``path``) of another kind than `PLAIN_LORA`, or that
    makes no sense."""
    defaults = type(config)()
    for name, value in options.items():
        if name not in PLAIN_LORA and value != getattr(defaults, name):
            raise ValueError(f"{path}: {name} is {value!r:.60}, and Limner puts in LoRA without it")
    if config.init_lora_weights not in INITIAL_VALUES:
        raise ValueError(
            f"{path}: init_lora_weights is {config.init_lora_weights!r:.60}, which changes the base too: convert the adapter "
            "to plain LoRA with peft (path_initial_model_for_weight_conversion)"
        )
    ranks, alphas = [config.r, *config.rank_pattern.values()], [config.lora_alpha, *config.alpha_pattern.values()]
    if not all(type(rank) is int and 0 < rank <= MAX_RANK for rank in ranks):
        raise ValueError(f"{path}: a rank is {ranks!r:.60}; it must be 1 to {MAX_RANK}")
    if not all(is_of_type(alpha, float) for alpha in alphas) or not is_of_type(config.lora_dropout, float):
        raise ValueError(f"{path}: lora_alpha and lora_dropout are finite numbers, not {alphas!r:.60}")
    patterns = [config.target_modules, config.exclude_modules, *config.rank_pattern, *config.alpha_pattern]
    for pattern in patterns:
        if not isinstance(pattern, (str, set, list, type(None))) or REPEATED_REPEAT.search(str(pattern)):
            raise ValueError(f"{path}: {pattern!r:.60} are no names of modules, or a pattern that may take for ever")


def read_lora(folder: Path) -> LoraWeights:
    """One part's. Raises ValueError as `load_tensors` does, and for a configuration that this peft does not understand."""
    import peft

    path = folder / "adapter_config.json"
    options = read_json(path)
    try:
        config = peft.LoraConfig(**options)
    except Exception as error:  # a newer peft has options that this one lacks; it imports what some name
        raise ValueError(f"{path} cannot be read by peft {peft.__version__}: {in_a_line(error)}") from error
    check_lora(options, config, path)
    weights = load_tensors(folder / "adapter_model.safetensors")
    return config, {key.removeprefix("base_model."): value for key, value in weights.items()}
