"""Changes of an adapter's folder, as `broken_folders` makes them of a model's."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from broken_folders import (
    NEW_CODE,
    VALUES,
    code,
    files,
    json_key,
    json_text,
    json_value,
    links,
    pickles,
    weights_header,
    write,
)


def adapter_card(folder: Path, rng: Random) -> bool:
    """A card whose fields are not what they should be."""
    path = folder / "limner_adapter.json"
    card = json.loads(path.read_text())
    place = rng.choice(("base", "base_fingerprint", "parts", "modules_to_save", "made", "format", "student"))
    if place == "student":
        card["made"] = {"student_steps": rng.choice(VALUES)}
    else:
        odd = (
            ["../llm"],
            ["/etc"],
            ["llm", "llm"],
            ["mmdit", "llm"],
            "llm",
            {"llm": 1},
            ["mllm.llm"],
            "\x1b[31mred\nline",
            "x" * 10**4,
        )
        card[place] = rng.choice((*VALUES, *odd))
    write(path, json.dumps(card))
    return False


def adapter_lora(folder: Path, rng: Random) -> bool:
    """peft's options that write into the base, load modules, compute for long or find nothing."""
    path = rng.choice(files(folder, "adapter_config.json"))
    made = (
        *({"init_lora_weights": kind} for kind in ("pissa", "pissa_niter_4", "olora", "eva", "corda", "loftq",
          "gaussian", "evil", 3, None, "orthogonal")),
        *({"target_modules": name} for name in ("(a+)+$", "(.*)*x", ".*", "[", "", [], None, ["lm_head"], "all-linear",
          ["embed_tokens"], 3)),
        *({"modules_to_save": name} for name in (["embed_tokens"], ["lm_head"], ["norm"], ".*", [""], ["evil"], 3)),
        *({"r": number} for number in (0, -1, 10**9, 1.5, "8", None, True, 3)),
        *({"lora_alpha": number} for number in (float("nan"), float("inf"), "8", None, 10**30, -1, True, [])),
        *({"rank_pattern": {"(a+)+$": 8}}, {"alpha_pattern": {".*": 10**30}}, {"rank_pattern": {".*": 10**6}},
          {"rank_pattern": [1]}),
        *({"layer_replication": [[0, 2], [0, 2]]}, {"trainable_token_indices": [0]}, {"target_parameters": ["weight"]},
          {"bias": "all"}),
        *({"use_dora": True}, {"use_rslora": True}, {"lora_bias": True}, {"fan_in_fan_out": True},
          {"use_qalora": True}, {"lora_dropout": 5}),
        *({"peft_type": "LOHA"}, {"peft_type": "evil"}, {"task_type": "evil"}, {"peft_version": "99.0"},
          {"exclude_modules": ".*"}),
        *({"megatron_config": {"a": 1}, "megatron_core": NEW_CODE}, {"loftq_config": {"loftq_bits": 4},
          "init_lora_weights": "loftq"}),
        *({"layers_to_transform": 0}, {"layers_to_transform": [99]}, {"layers_pattern": "evil"},
          {"inference_mode": "x"}, {"revision": "../x"}),
        *({"auto_mapping": {"base_model_class": "x", "parent_library": NEW_CODE}}, {"base_model_name_or_path": "/etc/passwd"}),
        *({"use_bdlora": {}}, {"arrow_config": {}}, {"corda_config": {}}, {"eva_config": {}}, {"lora_ga_config": {}},
          {"velora_config": {}}),
    )  # fmt: skip
    write(path, json.dumps(json.loads(path.read_text()) | rng.choice(made)))
    return False


ADAPTER_CHANGES = {
    change.__name__: change
    for change in (adapter_card, adapter_lora, json_value, json_key, json_text, weights_header, pickles, code, links)
}  # fmt: skip
