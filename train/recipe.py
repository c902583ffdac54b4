"""From nothing to a model folder: the stages of a recipe, in order, each resumable."""

from __future__ import annotations

import copy
import json
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase

from ..detokenizer.autoencoder import Autoencoder
from ..detokenizer.condition import AdapterConfig, ConditioningAdapter
from ..detokenizer.detokenizer import Detokenizer
from ..detokenizer.glyphs import GlyphConfig, GlyphEncoder
from ..detokenizer.mmdit import MMDiT
from ..detokenizer.mmdit_config import MMDiTConfig
from ..inference import precision
from ..inference.adapters import digest
from ..inference.generation_defaults import GenerationDefaults
from ..inference.model import Limner
from ..inference.output import check_folder, write_text
from ..mllm.config import LimnerConfig
from ..mllm.eye import Eye
from ..mllm.stream import StreamModel
from ..mllm.vocabulary import add_control_tokens
from . import parallel
from .deepen import deepened
from .resume import same_run, settled
from .stages import autoencoder, judge, reader, tokenizer, vision
from .stages.joint import run_joint, run_language
from .stages.joint_options import JointStage, LanguageStage
from .strict import into


@dataclass
class BackboneConfig:
    """A small language model made from scratch; ``model_type`` is any of transformers' causal ones."""

    model_type: str = "qwen3"
    hidden_size: int = 256
    intermediate_size: int = 768
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    num_key_value_heads: int = 2
    head_dim: int = 64
    max_position_embeddings: int = 4096
    tie_word_embeddings: bool = True
    attn_implementation: str = "sdpa"
    """While training; a saved model runs with transformers' default."""


@dataclass
class Recipe:
    name: str = "nano"
    seed: int = 1
    output: str = "runs/nano"
    warm_start: str = ""
    """A model folder to go on from; the stages before ``language`` are then its parts, of which the eye can be trained on
    (``--stages vision,language,joint``)."""
    stages: tuple[str, ...] = ()
    """That run where ``--stages`` names none; without any, those that make a model like nano"""
    device: str = "auto"
    dtype: str = "auto"
    """Of the weights while training: "auto" is what the machine computes faster, bfloat16 or float32. The optimizer's masters
    are fp32 in any case."""
    stream: LimnerConfig = field(default_factory=LimnerConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    mmdit: MMDiTConfig = field(default_factory=MMDiTConfig)
    glyphs: GlyphConfig = field(default_factory=GlyphConfig)
    """An encoder of the words that pictures carry; a warm start without one gains it"""
    generation: GenerationDefaults = field(default_factory=GenerationDefaults)
    tokenizer: tokenizer.TokenizerStage = field(default_factory=tokenizer.TokenizerStage)
    decoder: autoencoder.DecoderStage = field(default_factory=autoencoder.DecoderStage)
    """The autoencoder's decoder alone, at the end; the latents stay as they are"""
    autoencoder: autoencoder.AutoencoderStage = field(default_factory=autoencoder.AutoencoderStage)
    vision: vision.VisionStage = field(default_factory=vision.VisionStage)
    language: LanguageStage = field(default_factory=LanguageStage)
    detokenizer: JointStage = field(default_factory=lambda: JointStage(train=("detokenizer",)))
    """Features to pixels without the stream (SEED-X's first stage)"""
    align: JointStage = field(
        default_factory=lambda: JointStage(
            train=("mllm.queries", "mllm.input_resampler", "mllm.output_resampler", "detokenizer.adapter"),
            language_weight=0.0,
        )
    )
    """A frozen backbone and MM-DiT; what lies between them learns"""
    joint: JointStage = field(default_factory=JointStage)
    sft: JointStage = field(default_factory=JointStage)
    """Like ``joint``, on conversations of one's own"""
    judge: judge.JudgeStage = field(default_factory=judge.JudgeStage)
    reader: reader.ReaderStage = field(default_factory=reader.ReaderStage)


DRAWING = ("detokenizer", "align", "joint", "sft")
"""Stages of one form: they differ in what learns, from what, and by which losses."""
STAGES = ("tokenizer", "autoencoder", "vision", "judge", "reader", "language", *DRAWING, "decoder")
FROM_NOTHING = ("tokenizer", "autoencoder", "vision", "judge", "reader", "language", "joint")
"""What makes a model like nano; the others are for parts that come trained."""
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def load_recipe(name: str, overrides: list[str] | None = None) -> Recipe:
    """``configs/recipe/NAME.yaml`` and Hydra overrides (``joint.loop.steps=100``), every key checked.

    Raises ValueError for an unknown recipe or key, or a value of the wrong type.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException

    path = CONFIGS / "recipe" / f"{name}.yaml"
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in (CONFIGS / "recipe").glob("*.yaml")))
        raise ValueError(f"no recipe {name!r}; there are {known}")
    try:
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            # struct mode off: unknown keys are refused below, with the names of those that exist
            values = compose("config", [f"recipe={name}", *(f"++recipe.{o}" for o in overrides or [])])
            # over the defaults: a stage's own ("align" trains a few parts) hold where a recipe names another of its keys
            values = OmegaConf.to_container(OmegaConf.merge(asdict(Recipe()), values.recipe), resolve=True)
    except (OmegaConfBaseException, HydraException) as error:
        raise ValueError(f"recipe {name!r}: {error}".splitlines()[0]) from error
    return into(Recipe, values)


def build(recipe: Recipe, words: PreTrainedTokenizerBase, eye: Eye, vae: Autoencoder) -> Limner:
    """A fresh model around a trained eye and autoencoder; widths that follow from the parts are filled in."""
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
    mllm = StreamModel(llm, eye, recipe.stream, vocabulary)
    adapter = replace(recipe.adapter, feature_width=eye.width)
    if recipe.stream.prompt_tokens:
        adapter = replace(adapter, prompt_width=config.hidden_size)
    glyphs = GlyphEncoder.fresh(recipe.glyphs) if recipe.glyphs.width else None
    adapter = replace(adapter, glyph_width=recipe.glyphs.width)
    mmdit = replace(
        recipe.mmdit,
        latent_channels=vae.channels,
        context_width=adapter.context_width,
        pooled_width=adapter.pooled_width,
        max_references=recipe.stream.max_references,
    )
    height, width = recipe.stream.default_size
    tokens = height * width // (vae.factor * mmdit.patch_size) ** 2
    detokenizer = Detokenizer(ConditioningAdapter(adapter), MMDiT(mmdit), vae, trained_tokens=tokens, glyphs=glyphs)
    return Limner(mllm, detokenizer, words, recipe.generation)


def grow(model: Limner, recipe: Recipe) -> None:
    """What a warm start lacks and the recipe has: more layers, an encoder of words to be written, more references, longer
    replies."""
    if recipe.backbone.num_hidden_layers > model.mllm.llm.config.num_hidden_layers:
        model.mllm.llm = deepened(model.mllm.llm, recipe.backbone.num_hidden_layers)
    if recipe.glyphs.width and model.detokenizer.glyphs is None:
        model.detokenizer.learn_to_write(GlyphEncoder.fresh(recipe.glyphs))
    if recipe.stream.max_references > model.config.max_references:
        model.detokenizer.mmdit.see_more(recipe.stream.max_references)
        model.config.max_references = recipe.stream.max_references
    longest = {
        name: max(getattr(model.defaults, name), getattr(recipe.generation, name))
        for name in ("max_new_tokens", "max_images")
    }
    model.defaults = replace(model.defaults, **longest)


FIRST = ("tokenizer", "autoencoder", "vision")
"""What a warm start brings along."""
BESIDE = ("judge", "reader")
"""No parts of the model"""
RECIPE = "recipe.json"
"""File of a run's recipe in its output"""


def chosen(recipe: Recipe, stages: tuple[str, ...] | None) -> tuple[str, ...]:
    """The stages asked for, the recipe's own, or those that make a model from nothing or from a warm start.

    Raises ValueError for one that there is not, and for one that a warm start has no use for.
    """
    stages = stages or recipe.stages
    if unknown := sorted(set(stages) - set(STAGES)):
        raise ValueError(f"no stage {unknown[0]!r}; there are {', '.join(STAGES)}")
    if not recipe.warm_start:
        return stages or FROM_NOTHING
    stages = stages or tuple(s for s in FROM_NOTHING if s not in (*FIRST, *BESIDE))  # the eye only by name
    useless = [s for s in stages if s in FIRST and s != "vision"]
    if useless:
        raise ValueError(f"a warm start brings its own {useless[0]}: leave it out of --stages, or warm_start out")
    return stages


def run(recipe: Recipe, stages: tuple[str, ...] | None = None) -> Path:
    """Run the stages (finished ones are skipped) and return the model folder.

    Raises ValueError as `chosen` does, for an output that holds other things, and for a stage that has begun there with
    other data, from another base or by other settings.
    """
    stages = chosen(recipe, stages)
    folder = check_folder(recipe.output, RECIPE)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(asdict(recipe), indent=1) + "\n"
    if not (folder / RECIPE).exists():
        write_text(folder / RECIPE, text)
    device = parallel.start() or torch.device(
        ("cuda" if torch.cuda.is_available() else "cpu") if recipe.device == "auto" else recipe.device
    )
    dtype = parallel.agreed(precision.choose(device, recipe.dtype))
    print(f"precision {str(dtype).removeprefix('torch.')} on {device}", flush=True)
    seed = recipe.seed
    if recipe.warm_start:
        model = Limner.from_pretrained(recipe.warm_start).float()
        model.mllm.llm.set_attn_implementation(recipe.backbone.attn_implementation)
        torch.manual_seed(seed)
        grow(model, recipe)
        beside(recipe, stages, model.detokenizer.autoencoder, folder, device, dtype)
        if set(stages) <= set(BESIDE):
            return folder
        if "vision" in stages:
            begin(recipe, "vision", folder, model.mllm.eye)
            model.mllm.eye = vision.run(
                recipe.vision, recipe.stream, seed, folder / "vision", device, dtype, model.mllm.eye
            )
    else:
        missing = [s for s in ("tokenizer", "autoencoder", "vision") if not (folder / s / "model").exists()]
        if parallel.size() > 1 and missing:
            raise ValueError(f"{missing[0]} is a stage of one process: run --stages {','.join(missing)} first, alone")
        made = first_parts(recipe, stages, folder, device, dtype)
        if made is None:
            return folder
        model = build(recipe, *made)
    print(summary(model), flush=True)
    if "language" in stages:
        run_language(recipe.language, model, seed, folder / "language", device, dtype)
    for name in DRAWING:
        if name in stages:
            run_joint(getattr(recipe, name), model, seed, folder / name, device, dtype, name)
    if "decoder" in stages:
        begin(recipe, "decoder", folder, model.detokenizer.autoencoder)
        autoencoder.run_decoder(
            recipe.decoder, model.detokenizer.autoencoder.float(), seed + 8, folder / "decoder", device, dtype
        )
    if parallel.rank() == 0:
        model.to("cpu", torch.bfloat16).save_pretrained(folder / "model")
        write_text(folder / RECIPE, text)  # of the last command that went through
    parallel.wait()
    return folder / "model"


def dry_run(recipe: Recipe, stages: tuple[str, ...] | None = None) -> None:
    """Two steps, a sample and a checkpoint of every stage at full size, in a folder that is thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        trial = copy.deepcopy(recipe)
        trial.output = folder
        trial.tokenizer.lines = min(trial.tokenizer.lines, 2000)
        for name in set(STAGES) - {"tokenizer"}:
            loop = getattr(trial, name).loop
            loop.steps, loop.save_every, loop.sample_every, loop.warmup = 2, 2, 2, 1
        run(trial, stages)


def begin(recipe: Recipe, name: str, folder: Path, *base: nn.Module) -> None:
    """Note what stage ``name`` is of, in its folder. Raises ValueError where it has begun, or ended, with another ``base`` or
    by other settings."""
    stage = settled(getattr(recipe, name))
    same_run(folder / name, {"stage": stage, "seed": recipe.seed, "base": digest(*base)})


def beside(
    recipe: Recipe, stages: tuple[str, ...], vae: Autoencoder, folder: Path, device: torch.device, dtype: torch.dtype
) -> None:
    """Judge and reader, which are no part of the model: `limner eval` reads them from weights/."""
    for name, stage in (("judge", judge), ("reader", reader)):
        if name in stages:
            begin(recipe, name, folder, vae)
            stage.run(getattr(recipe, name), vae, recipe.seed, folder / name, device, dtype)
            vae.to("cpu", torch.float32)


def first_parts(
    recipe: Recipe, stages: tuple[str, ...], folder: Path, device: torch.device, dtype: torch.dtype
) -> tuple[PreTrainedTokenizerBase, Eye, Autoencoder] | None:
    """Tokenizer, eye and autoencoder (and the judge, no part of the model); None where the stages end before them."""
    seed = recipe.seed
    begin(recipe, "tokenizer", folder)
    words = tokenizer.run(recipe.tokenizer, seed, folder / "tokenizer")
    if "autoencoder" not in stages:
        return None
    begin(recipe, "autoencoder", folder)
    vae = autoencoder.run(recipe.autoencoder, seed, folder / "autoencoder", device, dtype)
    beside(recipe, stages, vae, folder, device, dtype)
    if "vision" not in stages:
        return None
    begin(recipe, "vision", folder)
    return words, vision.run(recipe.vision, recipe.stream, seed, folder / "vision", device, dtype), vae


def summary(model: Limner) -> str:
    """Parameters of each part, in millions."""
    parts: dict[str, Any] = {
        "backbone": model.mllm.llm,
        "eye": model.mllm.eye,
        "stream": [model.mllm.queries, model.mllm.input_resampler, model.mllm.output_resampler],
        "adapter": model.detokenizer.adapter,
        "mmdit": model.detokenizer.mmdit,
        "autoencoder": model.detokenizer.autoencoder,
    }
    counts = {
        name: sum(p.numel() for m in (part if isinstance(part, list) else [part]) for p in m.parameters()) / 1e6
        for name, part in parts.items()
    }
    return ", ".join(f"{k} {v:.2f} M" for k, v in counts.items()) + f", in all {sum(counts.values()):.2f} M"
