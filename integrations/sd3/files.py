"""Reads SD3 and SD3.5 from a diffusers folder or the original single file, and writes a diffusers folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from torch import Tensor

from ...detokenizer.autoencoder import Autoencoder
from ...detokenizer.files import (
    build_on_meta,
    check_state_dict,
    check_types,
    load_tensors,
    load_weights,
    read_json,
    read_part_config,
    resolve_folder,
)
from ...detokenizer.mmdit import MMDiT
from ...detokenizer.mmdit_config import MMDiTConfig
from .layouts import (
    config_from_diffusers,
    config_from_original,
    config_to_diffusers,
    weights_from_diffusers,
    weights_from_original,
    weights_to_diffusers,
)


def load_mmdit(path: str | Path, max_references: int = 0, variant: str | None = None) -> MMDiT:
    """The MM-DiT of a diffusers folder (of a transformer or a pipeline) or a single file in the original layout.

    ``variant`` is `find_weights`'; ``max_references`` adds embeddings for so many reference images, zero at first. Tensors are
    memory-mapped until they are used. Raises ValueError for anything else, and for unknown or missing weights and wrong shapes,
    naming them.
    """
    path = Path(path)
    if path.is_file() and path.suffix == ".safetensors":
        theirs = load_tensors(path)
        config = replace(config_from_original(theirs), max_references=max_references)
        return mmdit_from_weights(config, weights_from_original(theirs, config), path)
    folder = path / "transformer" if (path / "transformer").is_dir() else path
    if not (folder / "config.json").is_file():
        raise ValueError(f"{path} is no SD3: neither a .safetensors file nor a folder with a transformer's config.json")
    options = read_part_config(folder)
    if options.get("_class_name") != "SD3Transformer2DModel":
        raise ValueError(f"{folder} holds {options.get('_class_name')!r}, not SD3Transformer2DModel")
    config = replace(config_from_diffusers(options), max_references=max_references)
    return mmdit_from_weights(config, weights_from_diffusers(load_weights(folder, variant), config), folder)


def load_pipeline(
    folder: Path, max_references: int = 0, variant: str | None = None
) -> tuple[MMDiT, Autoencoder, float]:
    """MM-DiT, autoencoder and timestep shift of a diffusers pipeline's folder.

    Raises ValueError for a folder without them, or with a scheduler that shifts by another rule.
    """
    mmdit = load_mmdit(folder, max_references, variant)
    if not (folder / "vae/config.json").exists():
        raise ValueError(f"{folder} has no vae: a whole diffusers pipeline is needed, not the transformer alone")
    scheduler = folder / "scheduler/scheduler_config.json"
    options = read_json(scheduler) if scheduler.exists() else {}
    if options.get("use_dynamic_shifting"):
        raise ValueError(f"{scheduler}: use_dynamic_shifting is a rule that Limner does not follow")
    return mmdit, Autoencoder.from_pretrained(folder / "vae", variant), options.get("shift", 1.0)


def load_named_source(folder: Path, variant: str | None = None) -> tuple[MMDiT, Autoencoder] | None:
    """MM-DiT and autoencoder of the SD3 that a de-tokenizer's folder names as its source; None where it names none."""
    if not (folder / "mmdit/source.json").exists():
        return None
    options = read_json(folder / "mmdit/source.json", ("source", "max_references"))
    check_types(options, MMDiTConfig, folder / "mmdit/source.json")
    mmdit = load_mmdit(resolve_folder(folder / "mmdit", variant), options.get("max_references", 0), variant)
    return mmdit, Autoencoder.from_pretrained(resolve_folder(folder / "vae", variant) / "vae", variant)


def mmdit_from_weights(config: MMDiTConfig, weights: dict[str, Tensor], where: Path) -> MMDiT:
    """An MM-DiT of these tensors, without copying them. Raises ValueError where they do not fit (`check_state_dict`)."""
    model = build_on_meta(lambda: MMDiT(config), where)
    check_state_dict(weights, model, where)
    model.load_state_dict(weights, assign=True)
    return model.eval()


def save_diffusers(mmdit: MMDiT, folder: str | Path, drop_references: bool = False) -> None:
    """Writes ``mmdit`` as an `SD3Transformer2DModel` that diffusers' pipelines load.

    ``drop_references`` leaves out the embedding of references, which diffusers' class does not have. Raises ValueError for
    an MM-DiT that this class cannot express.
    """
    from diffusers import SD3Transformer2DModel

    config, weights = mmdit.config, mmdit.state_dict()
    if drop_references:
        config = replace(config, max_references=0)
        weights["reference_embed"] = weights["reference_embed"][:0]
    theirs = SD3Transformer2DModel(**config_to_diffusers(config)).to(mmdit.proj_out.weight.dtype)
    table = {"pos_embed.pos_embed": theirs.pos_embed.pos_embed}
    theirs.load_state_dict(weights_to_diffusers(weights, config) | table)
    theirs.save_pretrained(folder)
