"""Train a model folder from scratch or from a warm start: the stages of a recipe, in order, each resumable."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from ..detokenizer.autoencoder import Autoencoder
from ..detokenizer.condition import ConditioningAdapter
from ..detokenizer.glyph_images import read_font
from ..detokenizer.glyphs import GlyphEncoder
from ..detokenizer.mmdit import MMDiT
from ..detokenizer.mmdit_detokenizer import MMDiTDetokenizer
from ..inference.adapters import digest
from ..inference.devices import check_device
from ..inference.model import Limner
from ..inference.output import check_folder, check_space, write_text
from ..mllm.stream import StreamModel
from ..mllm.vision_tower import VisionTower
from ..mllm.vocabulary import add_control_tokens
from . import parallel
from .block_expansion import expand_blocks
from .card import measured, note_command, parameter_summary, run_history, write_card
from .config_parsing import current_keys, current_override, parse_config, with_defaults
from .machine import MachineChoices, choose_for_machine, plan, read_choices, recipe_text, sized
from .recipe_files import CONFIGS, compose_recipe, find_recipe, one_line
from .recipe_options import Recipe
from .resume import check_same_run, default_settings, flatten, only_run, run_settings
from .stages import autoencoder, judge, reader, text, tokenizer, vision, visual_tokenizer
from .stages.joint import run_joint, run_language
from .stages.student import run_student
from .warm_start import check_alignment, check_model_options, remove_prompt_source, renew_queries

JOINT_STAGES = ("detokenizer", "align", "joint", "sft")
"""Stages that share `run_joint`: they differ in what learns, in their data and in the weights of their losses."""
STAGES = (
    "tokenizer",
    "autoencoder",
    "vision",
    "judge",
    "reader",
    "visual_tokenizer",
    "text",
    "language",
    *JOINT_STAGES,
    "decoder",
    "student",
)
DEFAULT_STAGES = tuple(
    stage for stage in STAGES if stage not in (*JOINT_STAGES, "visual_tokenizer") or stage == "joint"
)
"""The stages that train a model like nano from scratch, with all that is shipped; the others are for trained parts."""


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by its name or one's own by the path of its file, with Hydra overrides (``joint.loop.steps=100``,
    ``backbone=small``), every key checked.

    Raises ValueError, naming the file or the overrides, for a recipe that is not there, an unknown key, a value of the wrong
    type or out of its range.
    """
    path = find_recipe(name)
    source = str(path) if Path(name).suffix else f"recipe {name!r}"
    try:
        return read_recipe(path, overrides)
    except ValueError as error:
        if overrides and not path.is_relative_to(CONFIGS):  # a file of the user's may be wrong without them
            try:
                read_recipe(path)
            except ValueError as own:
                raise ValueError(f"{source}: {own}") from own
        source = " ".join(overrides) or source
        raise ValueError(f"{source}: {error}") from error


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """`load_recipe` of a file, without saying where a mistake is."""
    try:
        # over the defaults: a stage's own ("align" trains a few parts) hold where a recipe names another of its keys
        given = compose_recipe(path, overrides)
        recipe = parse_config(Recipe, with_defaults(Recipe, given))
    except OmegaConfBaseException as error:
        raise ValueError(one_line(error)) from error
    names = [name for name, _ in flatten(current_keys(OmegaConf.to_container(given)))]
    check_model_options(recipe, names, [current_override(override).partition("=")[0] for override in overrides])
    return recipe


def build_model(recipe: Recipe, words: PreTrainedTokenizerBase, vision_tower: VisionTower, vae: Autoencoder) -> Limner:
    """A fresh model around a trained vision tower and autoencoder; widths that follow from the parts are filled in."""
    torch.manual_seed(recipe.seed)
    vocabulary = add_control_tokens(words, recipe.stream)
    options = asdict(recipe.backbone)
    attention = options.pop("attn_implementation")
    config = AutoConfig.for_model(
        options.pop("model_type"),
        **options,
        vocab_size=len(words),
        pad_token_id=words.pad_token_id,
        eos_token_id=words.eos_token_id,
        bos_token_id=None,
    )
    llm = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    mllm = StreamModel(llm, vision_tower, recipe.stream, vocabulary)
    glyphs = GlyphEncoder.from_config(recipe.glyphs) if recipe.glyphs.width else None
    adapter = replace(
        recipe.adapter,
        feature_width=vision_tower.width,
        prompt_width=config.hidden_size if recipe.stream.prompt_tokens else recipe.adapter.prompt_width,
        glyph_width=recipe.glyphs.width,
    )
    mmdit = replace(
        recipe.mmdit,
        latent_channels=vae.channels,
        context_width=adapter.context_width,
        pooled_width=adapter.pooled_width,
        max_references=recipe.stream.max_references,
    )
    height, width = recipe.stream.default_size
    tokens = height * width // (vae.downsample_factor * mmdit.patch_size) ** 2
    detokenizer = MMDiTDetokenizer(
        ConditioningAdapter(adapter), MMDiT(mmdit), vae, trained_tokens=tokens, glyphs=glyphs
    )
    model = Limner(mllm, detokenizer, words, recipe.generation)
    add_glyph_images(model, recipe)
    return model


def add_glyph_images(model: Limner, recipe: Recipe) -> None:
    """Words in plain type, if the recipe has them set and the model does not do so already."""
    detokenizer, glyphs = model.detokenizer, recipe.glyphs
    if glyphs.layout_width and isinstance(detokenizer, MMDiTDetokenizer) and detokenizer.glyph_images is None:
        font = read_font(Path(glyphs.font)) if glyphs.font else b""
        detokenizer.add_glyph_images(glyphs.layout_width, model.config.feature_tokens, glyphs.capitals, font)


def extend_model(model: Limner, recipe: Recipe) -> None:
    """Add to a warm start what the recipe has beyond it: layers, a glyph encoder, more references, longer replies; and take out
    the prompt source where the recipe says so, or begin the queries anew."""
    if recipe.drop_prompt_source:
        remove_prompt_source(model)
    if recipe.new_queries:
        renew_queries(model)
    if recipe.backbone.num_hidden_layers > model.mllm.llm.config.num_hidden_layers:
        model.mllm.llm = expand_blocks(model.mllm.llm, recipe.backbone.num_hidden_layers)
    if recipe.glyphs.width and model.detokenizer.glyphs is None:
        model.detokenizer.add_glyph_encoder(GlyphEncoder.from_config(recipe.glyphs))
    add_glyph_images(model, recipe)
    if recipe.stream.max_references > model.config.max_references:
        assert isinstance(model.detokenizer, MMDiTDetokenizer)
        model.detokenizer.mmdit.resize_references(recipe.stream.max_references)
        config = replace(model.config, max_references=recipe.stream.max_references)
        model.config = model.mllm.config = model.encoder.config = config
    longest = {
        name: max(getattr(model.defaults, name), getattr(recipe.generation, name))
        for name in ("max_new_tokens", "max_images")
    }
    if model.defaults.history and recipe.generation.history:  # 0 is all
        longest["history"] = max(model.defaults.history, recipe.generation.history)
    model.defaults = replace(model.defaults, **longest)


PART_STAGES = ("tokenizer", "autoencoder", "vision")
"""Stages whose parts a warm start has already."""
EVALUATION_STAGES = ("judge", "reader")
"""Stages that train networks of the evaluation, no parts of the model"""
RECIPE_FILE = "recipe.json"
"""File of a run's recipe in its output"""


def select_stages(recipe: Recipe, stages: tuple[str, ...] | None) -> tuple[str, ...]:
    """The given stages, else the recipe's, else those that train a model from scratch or from a warm start.

    Raises ValueError for an unknown stage, and for one whose part the warm start has already.
    """
    stages = stages or recipe.stages
    if unknown := sorted(set(stages) - set(STAGES)):
        raise ValueError(f"no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    if not recipe.warm_start:
        return stages or DEFAULT_STAGES
    # the vision tower only by name
    stages = stages or tuple(s for s in DEFAULT_STAGES if s not in (*PART_STAGES, *EVALUATION_STAGES))
    if useless := [s for s in stages if s in PART_STAGES and s != "vision"]:
        raise ValueError(f"a warm start brings its own {useless[0]}: leave it out of --stages, or warm_start out")
    return stages


def run_recipe(recipe: Recipe, stages: tuple[str, ...] | None = None) -> Path:
    """Run the stages (finished ones are skipped) and return the model folder.

    Raises ValueError, before any work, as `select_stages` does, for a device that this machine has not, a warm start that is no
    model and an output that holds other things; and for a stage that has begun there with other data, from another base or by
    other settings.
    """
    stages = select_stages(recipe, stages)
    check_model_options(recipe)
    if "visual_tokenizer" in stages and recipe.visual_tokenizer.seen_images == "tokens":
        for name in ("language", *JOINT_STAGES):
            if name in stages and getattr(recipe, name).token_closeness:  # not to be refused after hours
                raise ValueError(
                    f"{name}.token_closeness is for models that see pictures as features, and visual_tokenizer.seen_images is "
                    "'tokens': set it to 0"
                )
    wanted = None if recipe.device == "auto" else check_device(recipe.device)
    folder = Path(recipe.output)
    if parallel.rank() == 0:  # it alone writes there, perhaps before another process looks
        check_folder(folder, RECIPE_FILE)
    alone = [
        s
        for s in (*PART_STAGES, *EVALUATION_STAGES, "visual_tokenizer")
        if s in stages or (s in PART_STAGES and not recipe.warm_start)
    ]
    missing = [s for s in alone if not (folder / s / "model").exists()]
    if parallel.world_size() > 1 and missing:
        raise ValueError(f"{missing[0]} is a stage of one process: run --stages {','.join(missing)} first, alone")
    model = Limner.from_pretrained(recipe.warm_start).float() if recipe.warm_start else None
    if "visual_tokenizer" in stages and (model.config if model else recipe.stream).visual_codes:
        raise ValueError(
            f"{recipe.warm_start or 'stream.visual_codes'} has visual tokens already: leave visual_tokenizer out of --stages"
        )
    if model is None:
        check_alignment(recipe, stages, recipe.mmdit.depth)
    elif isinstance(model.detokenizer, MMDiTDetokenizer):
        check_alignment(recipe, stages, model.detokenizer.mmdit.config.depth)
    with only_run(folder):
        return _run(recipe, stages, folder, model, wanted)


def _run(
    given: Recipe, stages: tuple[str, ...], folder: Path, model: Limner | None, wanted: torch.device | None
) -> Path:
    """`run_recipe` from a checked warm start, or from nothing, in a folder that is this run's alone."""
    device = parallel.init_process_group() or wanted or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted is not None and wanted.type != device.type:
        raise ValueError(f"device is {given.device!r}; several processes train on {device.type}")
    choices = choose_for_machine(given, device, read_choices(folder / RECIPE_FILE))
    parallel.barrier()  # all have read what the first is to write
    written = recipe_text(given, choices)
    if parallel.rank() == 0:
        if not (folder / RECIPE_FILE).exists():
            write_text(folder / RECIPE_FILE, written)
        note_command(folder)
    recipe = sized(given, choices, stages)
    print(f"sized to  {choices}\nplan      {plan(recipe, stages)}", flush=True)
    dtype, seed = getattr(torch, choices.dtype), recipe.seed
    if model is not None:
        model.mllm.llm.set_attn_implementation(recipe.backbone.attn_implementation)
        torch.manual_seed(seed)
        extend_model(model, recipe)
        run_evaluation_stages(recipe, stages, model.detokenizer.autoencoder, folder, device, choices)
        if set(stages) <= set(EVALUATION_STAGES):
            return folder
        if "vision" in stages:
            check_stage(recipe, "vision", folder, model.mllm.vision_tower)
            with measured(folder, "vision", recipe.vision.loop, choices):
                model.mllm.vision_tower = vision.run_vision(
                    recipe.vision, model.config, seed, folder / "vision", device, dtype, model.mllm.vision_tower
                )
    else:
        made = train_parts(recipe, stages, folder, device, choices)
        if made is None:
            return folder
        model = build_model(recipe, *made)
    if "visual_tokenizer" in stages:
        with measured(folder, "visual_tokenizer", recipe.visual_tokenizer.loop, choices):
            model = visual_tokenizer.run_visual_tokenizer(
                recipe.visual_tokenizer, model, seed, folder / "visual_tokenizer", device, dtype
            )
    print(parameter_summary(model), flush=True)
    check_space(folder, 2 * sum(p.numel() for p in model.parameters()), "the model's weights")
    runs: dict[str, Callable[..., None]] = {
        "text": partial(text.run_text, recipe.text),
        "language": partial(run_language, recipe.language),
        **{name: partial(run_joint, getattr(recipe, name), name=name) for name in JOINT_STAGES},
    }
    tokenizer_as_stored = copy.deepcopy(
        model.mllm.visual_tokenizer
    )  # it is frozen; the precision of training would round it
    for name, run in runs.items():
        if name in stages:
            with measured(folder, name, getattr(recipe, name).loop, choices):
                run(model, seed=seed, folder=folder / name, device=device, dtype=dtype)
    if "decoder" in stages:
        vae = model.detokenizer.autoencoder
        check_stage(recipe, "decoder", folder, vae)
        with measured(folder, "decoder", recipe.decoder.loop, choices):
            autoencoder.run_decoder(recipe.decoder, vae.float(), seed + 8, folder / "decoder", device, dtype)
    model.mllm.visual_tokenizer = tokenizer_as_stored
    if parallel.rank() == 0:
        to_saved_precision(model.cpu(), recipe.warm_start).save_pretrained(folder / "model")
    parallel.barrier()
    if "student" in stages:
        with measured(folder, "student", recipe.student.loop, choices):
            run_student(recipe.student, folder / "model", folder / "student", device, recipe.joint.sample_prompts[:8])
    if parallel.rank() == 0:
        write_card(folder / "model", run_history(given, choices, folder), parameter_summary(model))
        write_text(folder / RECIPE_FILE, written)  # of the last command that went through
    parallel.barrier()
    return folder / "model"


@torch.no_grad()
def to_saved_precision(model: Limner, warm_start: str = "") -> Limner:
    """Bring ``model``, on the CPU, to bf16, or to the precision that each part of the warm start is stored in.

    What training left as it was gets the warm start's own bits back, which the precision of training may have rounded.
    """
    if not warm_start:
        return model.to(torch.bfloat16)
    base = Limner.from_pretrained(warm_start)
    stored = dict(base.named_parameters())
    parts = {part_of(name): parameter.dtype for name, parameter in stored.items()}
    for name, parameter in model.named_parameters():
        before = stored.get(name)
        if (
            before is not None
            and before.shape == parameter.shape
            and torch.equal(before.to(parameter.dtype), parameter)
        ):
            parameter.data = before.data
        else:
            parameter.data = parameter.data.to(parts.get(part_of(name), torch.bfloat16))
    return model


def part_of(name: str) -> str:
    """The part of a model that a parameter belongs to, such as "detokenizer.mmdit"."""
    return ".".join(name.split(".")[:2])


def dry_run(recipe: Recipe, stages: tuple[str, ...] | None = None) -> None:
    """Two steps, a sample and a checkpoint of every stage at full size, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        words = replace(recipe.tokenizer, num_lines=min(recipe.tokenizer.num_lines, 2000))
        trial: dict[str, Any] = {"output": folder, "tokenizer": words, "scale": 1.0}
        for name in set(STAGES) - {"tokenizer"}:
            stage = getattr(recipe, name)
            samples = 2 if stage.loop.sample_every or name != "student" else 0  # it draws before and after
            loop = replace(stage.loop, steps=2, save_every=2, sample_every=samples, warmup_steps=1)
            trial[name] = replace(stage, loop=loop)
        run_recipe(replace(recipe, **trial), stages)


def check_stage(recipe: Recipe, name: str, folder: Path, *base: nn.Module) -> None:
    """Write the settings of stage ``name`` to its folder, or compare them (`check_same_run`).

    Raises ValueError if it was begun or finished there with another ``base`` or other settings.
    """
    if parallel.rank() == 0:
        stage = getattr(recipe, name)
        settings = {"stage": run_settings(stage), "seed": recipe.seed, "base": digest(*base)}
        check_same_run(folder / name, settings, default_settings(stage))
    parallel.barrier()


def run_evaluation_stages(
    recipe: Recipe,
    stages: tuple[str, ...],
    vae: Autoencoder,
    folder: Path,
    device: torch.device,
    choices: MachineChoices,
) -> None:
    """Train the judge and the reader, networks of the evaluation; `limner eval` reads them from weights/."""
    for name, run in (("judge", judge.run_judge), ("reader", reader.run_reader)):
        if name in stages:
            check_stage(recipe, name, folder, vae)
            stage, dtype = getattr(recipe, name), getattr(torch, choices.dtype)
            with measured(folder, name, stage.loop, choices):
                run(stage, vae, recipe.seed, folder / name, device, dtype)
            vae.to("cpu", torch.float32)


def train_parts(
    recipe: Recipe, stages: tuple[str, ...], folder: Path, device: torch.device, choices: MachineChoices
) -> tuple[PreTrainedTokenizerBase, VisionTower, Autoencoder] | None:
    """Train tokenizer, autoencoder and vision tower, and the evaluation's networks; None if they end earlier."""
    seed, dtype = recipe.seed, getattr(torch, choices.dtype)
    check_stage(recipe, "tokenizer", folder)
    with measured(folder, "tokenizer", None, choices):
        words = tokenizer.run_tokenizer(recipe.tokenizer, seed, folder / "tokenizer")
    if "autoencoder" not in stages:
        return None
    check_stage(recipe, "autoencoder", folder)
    with measured(folder, "autoencoder", recipe.autoencoder.loop, choices):
        vae = autoencoder.run_autoencoder(recipe.autoencoder, seed, folder / "autoencoder", device, dtype)
    run_evaluation_stages(recipe, stages, vae, folder, device, choices)
    if "vision" not in stages:
        return None
    check_stage(recipe, "vision", folder)
    with measured(folder, "vision", recipe.vision.loop, choices):
        eye = vision.run_vision(recipe.vision, recipe.stream, seed, folder / "vision", device, dtype)
    return words, eye, vae
