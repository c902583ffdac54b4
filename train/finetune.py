"""LoRA fine-tuning: data checked, cost estimated, adapter trained, saved with pictures of before and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from peft import LoraConfig

from ..inference import precision
from ..inference.adapter_files import MODULES_TO_SAVE, STREAMS, TARGETS, mmdit_targets
from ..inference.model import Limner
from . import parallel
from .adapter_training import (
    RUN_FOLDER,
    AdapterTraining,
    check_output,
    check_run,
    comparison_section,
    draw_samples,
    learning_rate,
    prepared,
    save_adapter,
)
from .config_parsing import current_keys, parse_overrides
from .datasets.check import Report, check_dataset
from .datasets.example import CaptionedPicture, Example
from .datasets.mixture import ConversationSource, ExampleSource, Mixture, WorldSource
from .frozen_encoders import EncoderCache, encoders_fingerprint
from .loop import LoopConfig, fit
from .objective import JointObjective
from .option_checks import check_choice, check_numbers, check_seed, check_shares
from .resume import only_run
from .self_distillation import ReplayObjective
from .stages.joint_options import JointStage
from .step_cost import estimate_cost
from .trainable import TrainableModel, gradient_checkpointing, limner_parameter_name

EDIT_KINDS = ("edit", "follow_up", "describe")
"""Kinds of conversation that half of the replay is of: answers about earlier pictures and edits of them are forgotten first,
as captioned pictures have none before them."""
MIN_CONTEXT_DROPOUT = 0.25
"""Least share of the replayed drawings that are drawn without context, which only the base teaches (`ReplayObjective`)."""
UNUSED_STAGE_FIELDS = (
    "data",
    "train",
    "draw_share",
    "validation",
    "align_weight",
    "align_block",
    "compile",
    "sample_prompts",
    "text_batch_size",
    "text_data",
    "judge",
    "judged_drawings",
)
"""Options of a joint stage that fine-tuning does not use."""
ADAPTER_NAME = "new"
"""Name of the adapter while it trains."""


@dataclass(frozen=True)
class FinetuneConfig:
    rank: int = 32
    alpha: float = 32.0
    parts: tuple[str, ...] = ("llm", "mmdit")
    """Parts of the model that get LoRA."""
    streams: tuple[str, ...] = ()
    """Streams of the MM-DiT that get LoRA. On the context stream alone the drawings of other requests stay as they were; with
    the image stream it learns more, such as a style. () means context alone if there is replay, else both."""
    modules_to_save: tuple[str, ...] = ()
    """Small parts trained whole beside LoRA: queries, boi, input_resampler, output_resampler, adapter. A new object gains nothing
    by them (docs/finetune.md)."""
    draw_share: float = 0.8
    """How often a captioned picture is drawn from its caption; else it is described."""
    plan_share: float | None = None
    """Share of drawings after a plan: the longest caption, written before the picture. None means 0.85 for nano, which plans
    what it draws, and 0 for others."""
    replay: str = "auto"
    """What is replayed so that the base's abilities are not forgotten: "world", "none", or "auto" (world for nano). The targets
    are the base's own outputs (`self_distillation`), not the true ones."""
    replay_share: float = 0.5
    replay_weight: float = 7.5
    """Weight of the replayed conversations' losses beside 1 for new examples: their errors are small and have to stay so."""
    seed: int = 0
    dtype: str = "auto"
    """Precision of the frozen weights while training; "auto" is bfloat16 if the machine is faster in it and no weight of the
    base is rounded, else float32."""
    samples: int = 4
    """Number of prompts drawn before and after training."""
    joint: JointStage = field(
        default_factory=lambda: JointStage(
            density_mean=0.3,
            loop=LoopConfig(
                steps=375,
                batch_size=16,
                learning_rate=0.0,
                warmup_steps=30,
                decay_ratio=0.5,
                ema_decay=0.98,
                save_every=100,
                sample_every=0,
                num_workers=None,
            ),
        )
    )
    """Losses and loop; a learning rate of 0 takes one from the backbone's width."""

    def __post_init__(self) -> None:
        for name, known in (("parts", TARGETS), ("streams", STREAMS), ("modules_to_save", MODULES_TO_SAVE)):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # Python may give lists
            unknown = sorted(set(getattr(self, name)) - set(known))
            if unknown:
                raise ValueError(f"{name}: no {unknown[0]!r}; there are {', '.join(known)}")
        if self.streams and "mmdit" not in self.parts:
            raise ValueError(f"streams is {', '.join(self.streams)}; they are of the MM-DiT, which parts leave out")
        check_choice(self, "replay", ("auto", "world", "none"))
        check_shares(self, "draw_share", "plan_share")
        check_shares(self, "replay_share", most=0.95)
        check_numbers(self, "replay_weight", "samples", least=0)
        check_numbers(self, "rank", least=1)
        check_seed(self)
        check_numbers(self, "alpha", above=0)
        precision.check_dtype(self.dtype)
        plain = JointStage()
        for name in UNUSED_STAGE_FIELDS:
            if getattr(self.joint, name) != getattr(plain, name):
                raise ValueError(
                    f"joint.{name} has no effect here; finetune takes DATA, parts, modules_to_save, draw_share and samples"
                )
        if self.joint.loop.sample_every:
            raise ValueError(
                f"joint.loop.sample_every is {self.joint.loop.sample_every} and has no effect here: samples are drawn "
                "before and after"
            )
        if not self.parts and not self.modules_to_save:
            raise ValueError("nothing to train: both parts and modules_to_save are empty")


def load_config(overrides: Sequence[str] = ()) -> FinetuneConfig:
    """Defaults and overrides (``joint.loop.steps=100``), every key checked. Raises ValueError."""
    return parse_overrides(FinetuneConfig, overrides)


def config_from_options(options: Mapping[str, Any]) -> FinetuneConfig:
    """A `FinetuneConfig` of its fields and ``steps``. Raises ValueError for an unknown option or a value that makes no sense."""
    options, fields = current_keys(dict(options)), FinetuneConfig.__dataclass_fields__
    if unknown := sorted(set(options) - {"steps", *fields}):
        raise ValueError(f"unknown option {unknown[0]!r}; there are steps, {', '.join(fields)}")
    config = FinetuneConfig(**{name: value for name, value in options.items() if name != "steps"})
    if options.get("steps") is not None:
        config = replace(config, joint=with_loop(config.joint, steps=options["steps"]))
    return config


def with_loop(stage: JointStage, **changes: Any) -> JointStage:
    """``stage`` with other values in its loop."""
    return replace(stage, loop=replace(stage.loop, **changes))


def finetune(
    model: Limner,
    data: str | Path,
    output: str | Path,
    config: FinetuneConfig | None = None,
    dry_run: bool = False,
    **options: Any,
) -> Path:
    """Train a LoRA adapter on ``data`` and write it to ``output``; the model is as it was before.

    ``options`` are fields of `FinetuneConfig` (``rank=8``) and ``steps``; ``config`` is all of them in one. Needs
    ``limner[train]``.

    ``output`` is a new folder, or one with a run that was stopped, which goes on from its checkpoint; the run's log and
    figures stay in ``output/run``, and checkpoints where ``joint.loop.save_total_limit`` asks for several. ``dry_run`` takes
    two steps whose result is thrown away. Raises ValueError for bad data or options.
    """
    if config is not None and options:
        raise ValueError(f"config and {', '.join(options)}: give one or the other")
    config, output = config or config_from_options(options), Path(output)
    check_output(model, output, data)
    report = check_dataset(data, model.encoder, model.mllm.max_position_embeddings)
    with prepared(model, config.dtype, config.seed):
        config = fill_defaults(config, model)
        trainable, adapter = prepare_adapter(model, config)
        with adapter, ExitStack() as held:
            return _train(adapter, trainable, report, str(data), output, config, dry_run, held)


def _train(
    adapter: AdapterTraining,
    trainable: TrainableModel,
    report: Report,
    data: str,
    output: Path,
    config: FinetuneConfig,
    dry_run: bool,
    held: ExitStack,
) -> Path:
    model, stage, examples = adapter.model, config.joint, report.examples
    loop = stage.loop
    prompts = sample_prompts(examples, config)
    trained = sum(p.numel() for p in trainable.parameters() if p.requires_grad)
    print(
        f"training  {trained / 1e6:.2f} M of {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M "
        f"parameters: LoRA of rank {config.rank} on {' and '.join(config.parts) or 'nothing'}; "
        f"whole: {', '.join(config.modules_to_save) or 'nothing'}; in {str(model.mllm.dtype).removeprefix('torch.')}",
        flush=True,
    )
    make_batch = training_mixture(model, report, config)
    objective = JointObjective(trainable, stage, config.seed)
    if uses_replay(model, config):
        stage = replace(stage, context_dropout=max(stage.context_dropout, MIN_CONTEXT_DROPOUT))
        objective = ReplayObjective(trainable, stage, config.seed, adapter, config.replay_weight)
        print(
            f"replay    {config.replay_share:.0%} of the conversations are of the drawn world that {model.name} knows",
            flush=True,
        )
    if stage.precomputed:
        trainable.frozen_encoders.cache = EncoderCache(stage.precomputed, encoders_fingerprint(model))
    samples, first = output / "samples", parallel.rank() == 0
    if first and not dry_run:
        held.enter_context(only_run(output))
        check_run(output, model, make_batch, config)
    with gradient_checkpointing(trainable, stage.gradient_checkpointing):
        seconds, peak = estimate_cost(make_batch, objective)
    epochs = make_batch.counts(loop.steps * loop.batch_size)[0] / len(examples)
    print(
        f"estimate  {loop.steps} steps ({epochs:.1f} epochs) of {seconds:.2f} s: {loop.steps * seconds / 60:.1f} minutes, "
        f"{peak / 2**30:.1f} GiB",
        flush=True,
    )
    if dry_run:
        if note := loop.warmup_note():  # `fit` says it otherwise
            print(note, flush=True)
        return output
    if first and not (samples / "before.png").exists():
        draw_samples(model, prompts, config.seed, samples / "before.png")
    parallel.barrier()
    device = model.mllm.device
    with gradient_checkpointing(trainable, stage.gradient_checkpointing):
        optimizer = fit("finetune", trainable, make_batch, objective, loop, output / RUN_FOLDER)
    trainable.frozen_encoders.report_misses()
    model.to(device)  # what was sharded is gathered on the CPU
    averaged = {
        limner_parameter_name(name): parallel.full_tensor(value) for name, value in optimizer.averaged().items()
    }
    if first:
        draw_samples(model, prompts, config.seed, samples / "after.png")
        made = {"data": data, "examples": len(examples), "steps": loop.steps, "config": asdict(config)}
        save_adapter(adapter, output, averaged, made, model_card(model, data, examples, prompts, config), loop)
    return output


def training_mixture(model: Limner, report: Report, config: FinetuneConfig) -> Mixture:
    """Batches of the new examples, the first source, and of what is replayed."""
    plan_share = model.config.plan_share if config.plan_share is None else config.plan_share
    new = ExampleSource(report.examples, config.draw_share, plan_share, report.fingerprint)
    sources: list[tuple[ConversationSource, float]] = [(new, 1.0)]
    if uses_replay(model, config):
        half = config.replay_share / 2
        sources = [(new, 1 - config.replay_share), (WorldSource(), half), (WorldSource(EDIT_KINDS), half)]
    make_batch = Mixture(sources, model.encoder, config.joint.loop.batch_size, config.seed, pool=8, shares=config.joint)
    make_batch.keys = True
    return make_batch


def uses_replay(model: Limner, config: FinetuneConfig) -> bool:
    """Whether conversations of the base's own data are replayed."""
    return config.replay == "world" or (config.replay == "auto" and model.config.replay == "world")


def fill_defaults(config: FinetuneConfig, model: Limner) -> FinetuneConfig:
    """``config`` with the learning rate and the streams that suit the model, where it names none."""
    if not config.joint.loop.learning_rate:
        config = replace(config, joint=with_loop(config.joint, learning_rate=learning_rate(model.mllm.width)))
    if "mmdit" in config.parts and not config.streams:
        config = replace(config, streams=("context",) if uses_replay(model, config) else STREAMS)
    return config


def prepare_adapter(model: Limner, config: FinetuneConfig) -> tuple[TrainableModel, AdapterTraining]:
    """The module with only the adapter requiring a gradient, and the adapter."""
    trainable = TrainableModel(model.mllm, model.detokenizer)
    targets = {"llm": TARGETS["llm"], "mmdit": mmdit_targets(fill_defaults(config, model).streams or STREAMS)}
    configs = {
        part: LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets[part]) for part in config.parts
    }
    return trainable, AdapterTraining(model, ADAPTER_NAME, configs, config.modules_to_save)


def sample_prompts(examples: list[Example], config: FinetuneConfig) -> list[str]:
    """Captions, or requests answered by a drawing, of a few examples spread over the set."""
    prompts = []
    for example in examples[:: max(1, len(examples) // max(1, config.samples))]:
        if isinstance(example, CaptionedPicture):
            prompts.append(example.captions[0])
        elif len(example.messages) > 1 and any(p["type"] == "image" for p in example.messages[1]["content"]):
            words = [p["text"] for p in example.messages[0]["content"] if p["type"] == "text"]
            if len(words) == len(example.messages[0]["content"]):  # a request without a picture of its own
                prompts.append(" ".join(words))
    return prompts[: config.samples]


def model_card(model: Limner, data: str, examples: list[Example], prompts: list[str], config: FinetuneConfig) -> str:
    """The adapter's README: its base, what made it, how to use it."""
    loop = config.joint.loop
    pictured = comparison_section("before", "after", prompts, config.seed)
    lora, whole = " and ".join(config.parts) or "nothing", ", ".join(config.modules_to_save) or "nothing"
    return f"""---
base_model: {model.name}
library_name: limner
tags: [lora, text-to-image]
---

# A Limner adapter for {model.name}

LoRA of rank {config.rank} on {lora}; trained whole: {whole}.
Made of {len(examples)} examples ({Path(data).name}) in {loop.steps} steps of {loop.batch_size} conversations, learning rate
{loop.learning_rate:.2g}, seed {config.seed}.

    limner chat --adapter {{this folder}}

    model = limner.load("{model.name}")
    model.load_adapter("{{this folder}}")
{pictured}"""
