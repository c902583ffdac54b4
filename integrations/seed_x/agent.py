"""Weights and prompt formats of SEED-X's agent (Ge et al. 2024, arXiv:2404.14396) for a `StreamModel`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

_PARTS = ("input_resampler", "output_resampler")

_TURNS = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message.role == 'system' %}{{ message.content }}\n"
    "{% elif message.role == 'user' %}"
    "{% if not loop.first and messages[loop.index0 - 1].role == 'assistant' %}{{ '\n' }}{% endif %}"
    "[INST] USER [/INST]\n"
    "{% else %}{{ message.content }}{% if loop.last and not add_generation_prompt %}{{ eos_token }}{% endif %}{% endif %}"
    "{% endfor %}"
)
_ASKED = "{% if loop.last and images == 'force' %}Generate an image: {% endif %}{{ message.content }}"
TEMPLATES = {
    # the pre-trained model continues a caption (with an image or a box) or answers a question
    "seed_x": (
        "{{ bos_token }}{% for message in messages %}{% if message.role == 'assistant' %} {{ message.content }}\n"
        "{% elif images == 'force' and loop.last %}{{ message.content }}"
        "{% elif boxes and loop.last %}{{ message.content }} [[ <box_start>"
        "{% else %}Question: {{ message.content }}\nAnswer:{% endif %}{% endfor %}"
        "{% if messages[-1].role == 'assistant' %}{{ eos_token }}{% endif %}"
    ),
    "seed_x_i": _TURNS.replace("USER", _ASKED),
    "seed_x_edit": _TURNS.replace("USER", "{{ message.content }}"),
}
"""Chat templates of the three released models."""


def weights_from_seed_x(theirs: Mapping[str, Tensor], slots: Sequence[int]) -> dict[str, Tensor]:
    """A state dict for a `StreamModel` without its vision tower.

    The embedding rows of the query slots become ``queries``; the resamplers' position tables are fixed and left out. Raises
    ValueError naming every key that has no place, and the keys that are missing.
    """
    left = dict(theirs)
    if missing := [name for name in ("patch_pos_embed", "llm.model.embed_tokens.weight") if name not in left]:
        raise ValueError(f"SEED-X's agent needs {' and '.join(missing)}")
    ours: dict[str, Tensor] = {"tile_embed": left.pop("patch_pos_embed")}
    for part in _PARTS:
        left.pop(f"{part}.pos_embed", None)
    ours |= {name: left.pop(name) for name in list(left) if name.split(".")[0] in ("llm", *_PARTS)}
    if left:
        raise ValueError(f"weights with no place in the stream: {', '.join(sorted(left))}")
    ours["queries.weight"] = ours["llm.model.embed_tokens.weight"][list(slots)].clone()
    return ours
