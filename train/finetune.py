"""LoRA fine-tuning: data checked, cost estimated, adapter trained, saved with pictures of before and after."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from torch import Tensor, nn
from tqdm import tqdm

from ..evaluation.sheet import save_sheet
from ..inference import adapter_files, precision
from ..inference.adapter_files import STREAMS, TARGETS, mmdit_targets
from ..inference.adapters import EXTRA
from ..inference.model import Limner
from ..inference.output import check_folder, write_text
from ..inference.progress import ProgressBar
from . import parallel
from .adapter_training import AdapterTraining
from .config_parsing import parse_overrides
from .data import JointBatch
from .datasets import check, readers
from .datasets.check import Report
from .datasets.example import CaptionedPicture, Example
from .datasets.mixture import ConversationSource, ExampleSource, Mixture, WorldSource
from .flow_loss import random_choices
from .frozen_encoders import EncoderCache, encoders_fingerprint
from .loop import LoopConfig, backward, fit
from .optimizer import MasterOptimizer
from .renamed_keys import current_keys
from .resume import SETTINGS_FILE, check_same_run, run_settings
from .self_distillation import self_distillation_targets
from .stages.joint import joint_losses
from .stages.joint_options import JointStage
from .trainable import TrainableModel, gradient_checkpointing, limner_parameter_name

EDIT_KINDS = ("edit", "follow_up", "describe")
"""Kinds of conversation that half of the replay is of: answers about earlier pictures and edits of them are forgotten first,
as captioned pictures have none before them."""
MIN_CONTEXT_DROPOUT = 0.25
"""Least share of the replayed drawings that are drawn without context, which only the base teaches (`joint_losses`)."""
UNUSED_STAGE_FIELDS = (
    "data",
    "train",
    "draw_share",
    "validation",
    "align_weight",
    "align_block",
    "compile",
    "sample_prompts",
)
"""Options of a joint stage that fine-tuning does not use."""
ADAPTER_NAME = "new"
"""Name of the adapter while it trains."""
RUN_FOLDER = "run"
"""Folder inside the adapter's for checkpoints, log and metrics."""


@dataclass
class FinetuneConfig:
    rank: int = 32
    alpha: float = 32.0
    parts: tuple[str, ...] = ("llm", "mmdit")
    """Parts of the model that get LoRA."""
    streams: tuple[str, ...] = ()
    """Streams of the MM-DiT that get LoRA. On the context stream alone the drawings of other requests stay as they were; with
    the image stream it learns more, such as a style. () means context alone if there is replay, else both."""
    extra: tuple[str, ...] = ()
    """Small parts trained in full beside LoRA: queries, boi, input_resampler, output_resampler, adapter. A new
    object gains nothing by them (docs/finetune.md)."""
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
        self.parts, self.streams, self.extra = tuple(self.parts), tuple(self.streams), tuple(self.extra)
        for name, known in (("parts", TARGETS), ("streams", STREAMS), ("extra", EXTRA)):
            unknown = sorted(set(getattr(self, name)) - set(known))
            if unknown:
                raise ValueError(f"{name}: no {unknown[0]!r}; there are {', '.join(known)}")
        if self.streams and "mmdit" not in self.parts:
            raise ValueError(f"streams is {', '.join(self.streams)}; they are of the MM-DiT, which parts leave out")
        if self.replay not in ("auto", "world", "none"):
            raise ValueError(f"replay is {self.replay!r}; it can be auto, world or none")
        for name, most in (("draw_share", 1), ("plan_share", 1), ("replay_share", 0.95)):
            if not 0 <= (getattr(self, name) or 0) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and {most}")
        plain = JointStage()
        for name in UNUSED_STAGE_FIELDS:
            if getattr(self.joint, name) != getattr(plain, name):
                raise ValueError(
                    f"joint.{name} has no effect here: finetune takes DATA, parts and extra, draw_share, samples instead"
                )
        if self.joint.loop.sample_every:
            raise ValueError(
                f"joint.loop.sample_every is {self.joint.loop.sample_every} and has no effect here: samples are drawn "
                "before and after"
            )
        if self.replay_weight < 0:
            raise ValueError(f"replay_weight is {self.replay_weight}; it must not be negative")
        if self.rank < 1:
            raise ValueError(f"rank is {self.rank}; it must be at least 1")
        if not self.parts and not self.extra:
            raise ValueError("nothing to train: both parts and extra are empty")


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
        config.joint.loop.steps = options["steps"]
    return config


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
    if (output / adapter_files.CARD).exists():
        raise ValueError(f"{output} holds a finished adapter already; choose another folder or take it away")
    check_folder(output, f"{RUN_FOLDER}/{SETTINGS_FILE}")
    if model.adapters.user:
        raise ValueError("adapters are loaded: merge_adapters() or delete_adapter() first")
    print(f"checking {data}", flush=True)
    report = check.check(readers.read(data), model.encoder, model.mllm.max_position_embeddings)
    print(report.table(), flush=True)
    report.raise_if_unusable()
    with restored(model):
        device = parallel.init_process_group()
        model.to(device, training_precision(model, device or model.mllm.device, config.dtype))
        torch.manual_seed(config.seed)
        trainable, adapter = prepare_adapter(model, config)
        with adapter:
            return _train(adapter, trainable, report, str(data), output, config, dry_run)


@contextmanager
def restored(model: Limner) -> Iterator[None]:
    """On leaving it, the model has its former precision."""
    before = {p: p.dtype for p in model.parameters()}
    try:
        yield
    finally:
        for parameter, dtype in before.items():
            parameter.data = parameter.data.to(dtype)
        model.requires_grad_(True).eval()


def _train(
    adapter: AdapterTraining,
    trainable: TrainableModel,
    report: Report,
    data: str,
    output: Path,
    config: FinetuneConfig,
    dry_run: bool,
) -> Path:
    model, stage, examples = adapter.model, config.joint, report.examples
    loop = stage.loop
    if not loop.learning_rate:
        loop.learning_rate = learning_rate(model.mllm.width)
    prompts = sample_prompts(examples, config)
    trained = {n: p.numel() for n, p in trainable.named_parameters() if p.requires_grad}
    print(
        f"training  {sum(trained.values()) / 1e6:.2f} M of {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M "
        f"parameters: LoRA of rank {config.rank} on {' and '.join(config.parts) or 'nothing'}; "
        f"whole: {', '.join(config.extra) or 'nothing'}; in {str(model.mllm.dtype).removeprefix('torch.')}",
        flush=True,
    )
    plan_share = model.config.plan_share if config.plan_share is None else config.plan_share
    new = ExampleSource(examples, config.draw_share, plan_share, report.fingerprint)
    sources: list[tuple[ConversationSource, float]] = [(new, 1.0)]
    if uses_replay(model, config):
        stage = replace(stage, context_dropout=max(stage.context_dropout, MIN_CONTEXT_DROPOUT))
        half = config.replay_share / 2
        sources = [(new, 1 - config.replay_share), (WorldSource(), half), (WorldSource(EDIT_KINDS), half)]
        print(
            f"replay    {config.replay_share:.0%} of the conversations are of the drawn world that {model.name} knows",
            flush=True,
        )
    make_batch = Mixture(sources, model.encoder, loop.batch_size, config.seed, pool=8)
    make_batch.keys = True
    if stage.precomputed:
        trainable.frozen_encoders.cache = EncoderCache(stage.precomputed, encoders_fingerprint(model))
    losses = partial(
        adapter_losses, adapter, trainable, stage, config.seed, config.replay_weight if len(sources) > 1 else None
    )
    samples, run, first = output / "samples", output / RUN_FOLDER, parallel.rank() == 0
    settings = {"data": make_batch.fingerprints, "base": model.adapters.fingerprint, "config": run_settings(config)}
    if first and not dry_run:
        check_same_run(run, settings)
    with gradient_checkpointing(trainable, stage.gradient_checkpointing):
        seconds, peak = estimate_cost(make_batch, losses, trainable, stage)
    epochs = make_batch.counts(loop.steps * loop.batch_size)[0] / len(examples)
    print(
        f"estimate  {loop.steps} steps ({epochs:.1f} epochs) of {seconds:.2f} s: {loop.steps * seconds / 60:.1f} minutes, "
        f"{peak / 2**30:.1f} GiB",
        flush=True,
    )
    if dry_run:
        return output
    if first and prompts and not (samples / "before.png").exists():
        draw_samples(model, prompts, config.seed, samples / "before.png")
    parallel.barrier()
    with gradient_checkpointing(trainable, stage.gradient_checkpointing):
        optimizer = fit("finetune", trainable, make_batch, losses, loop, run)
    averaged = {
        limner_parameter_name(name): parallel.full_tensor(value) for name, value in optimizer.averaged().items()
    }
    if not first:
        return output
    if prompts and loop.parallel == "ddp":  # what was sharded is gathered for saving and cannot draw
        draw_samples(model, prompts, config.seed, samples / "after.png")
    provenance = {"data": data, "examples": len(examples), "steps": loop.steps, "config": asdict(config)}
    write_text(output / "README.md", model_card(model, data, examples, prompts, config))
    adapter.save(output, averaged, provenance)
    remove_checkpoints(run, loop)
    return output


def remove_checkpoints(run: Path, loop: LoopConfig) -> None:
    """Remove the checkpoints of a finished run, unless several were to be kept; log and metrics stay."""
    if loop.save_total_limit == 1:
        shutil.rmtree(run / "checkpoints")


def adapter_losses(
    adapter: AdapterTraining,
    trainable: TrainableModel,
    stage: JointStage,
    seed: int,
    weight: float | None,
    batch: JointBatch,
    step: int,
) -> dict[str, Tensor]:
    """Losses of a batch: true targets for the first source, the base's outputs (`self_distillation_targets`) with ``weight`` for
    the others; a weight of None means that nothing is replayed."""
    self_targets = None
    if weight is not None:
        device = trainable.stream.device
        batch = batch.to(device)
        replayed = torch.tensor(batch.sources, device=device) > 0
        with adapter.disabled():
            self_targets = self_distillation_targets(trainable, stage, seed, batch, step, replayed, weight)
    return joint_losses(trainable, stage, seed, batch, step, self_targets)


def uses_replay(model: Limner, config: FinetuneConfig) -> bool:
    """Whether conversations of the base's own data are replayed."""
    return config.replay == "world" or (config.replay == "auto" and model.config.replay == "world")


def prepare_adapter(model: Limner, config: FinetuneConfig) -> tuple[TrainableModel, AdapterTraining]:
    """The module with only the adapter requiring a gradient, and the adapter."""
    trainable = TrainableModel(model.mllm, model.detokenizer)
    if "mmdit" in config.parts and not config.streams:
        config.streams = ("context",) if uses_replay(model, config) else STREAMS
    targets = {"llm": TARGETS["llm"], "mmdit": mmdit_targets(config.streams or STREAMS)}
    configs = {
        part: LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets[part]) for part in config.parts
    }
    return trainable, AdapterTraining(model, ADAPTER_NAME, configs, config.extra)


def learning_rate(width: int) -> float:
    """2e-4 at a width of 4096, as is usual, and 1.3e-3 at nano's 256, measured (docs/finetune.md): a power of the ratio."""
    return round(2e-4 * (4096 / width) ** 0.675, 5)


def training_precision(model: Limner, device: torch.device, wanted: str = "auto") -> torch.dtype:
    """Precision of the frozen weights on all processes: what the machine computes fast, unless bf16 would round the base.

    Raises ValueError for a name that is no precision.
    """
    dtype = precision.choose_dtype(device, wanted)
    if wanted == "auto" and not all(torch.equal(p, p.to(dtype).to(p.dtype)) for p in model.parameters()):
        dtype = torch.float32
    return parallel.common_dtype(dtype)


def estimate_cost(
    make_batch: Mixture,
    losses: Callable[[JointBatch, int], dict[str, Tensor]],
    trainable: TrainableModel,
    stage: JointStage,
) -> tuple[float, int]:
    """Seconds a step and peak memory in bytes, from two steps that change nothing.

    The batches of a pool differ, as they are sorted by what is drawn in them. The largest one shows the memory, and warms up;
    the one that is nearest to the pool's mean in `step_cost` is timed.
    """
    batches = [make_batch(step) for step in tqdm(range(make_batch.pool), desc="a pool", leave=False, disable=None)]
    costs = [
        parallel.sum_over_processes(step_cost(batch, trainable, stage)) for batch in batches
    ]  # all processes choose the same
    mean = sum(costs) / len(costs)
    largest = max(range(len(costs)), key=lambda i: costs[i])
    typical = min(range(len(costs)), key=lambda i: abs(costs[i] - mean))
    optimizer = MasterOptimizer(trainable.named_parameters(), 1.0, ema_decay=0.9)
    for step in tqdm((largest, typical), desc="trying", leave=False, disable=None):
        begun = time.monotonic()
        backward(losses(batches[step], step)["loss"])
        optimizer.step(0.0, 1.0)
        seconds = time.monotonic() - begun
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()
    return seconds * mean / costs[typical], peak


def step_cost(batch: JointBatch, trainable: TrainableModel, stage: JointStage) -> float:
    """About how many multiplications a step of this batch takes: parameters times tokens, for forward, backward and, if
    conversations are replayed, the base's forward."""
    stream, detokenizer = trainable.stream, trainable.mmdit_detokenizer
    rows, tokens = batch.stream.input_ids.shape
    tokens_in_all = rows * tokens + len(batch.target) * stream.config.num_queries
    passes = 3 if any(batch.sources) else 2
    total: float = tokens_in_all * passes * count_parameters(stream.llm.get_decoder().layers)
    if not batch.target:
        return total
    distilled = torch.tensor(batch.sources)[batch.stream.drawing_row] > 0
    assert detokenizer.adapter is not None
    context = detokenizer.adapter.config.num_tokens + stream.config.prompt_tokens
    for drawing, count in enumerate(random_choices(stage, batch, 0, 0, distilled).counts):
        shown = [batch.target[drawing], *batch.references[drawing]]
        pixels = sum(batch.pictures[shape][0, ..., 0].numel() for shape, _ in shown)
        # either stream has half of the parameters
        token_products = (
            (context + pixels // detokenizer.size_multiple**2) * count_parameters(detokenizer.mmdit.blocks) / 2
        )
        total += count * token_products * (3 if distilled[drawing] else 2)
    return total


def count_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def peak_memory() -> int:
    """Peak memory of this process in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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


def draw_samples(model: Limner, prompts: Sequence[str], seed: int, path: Path, **options: Any) -> None:
    with ProgressBar() as progress:
        replies = model.eval().draw(
            list(prompts),
            max_new_tokens=32,
            seed=seed,
            callback=progress,
            adapters=model.adapters.without_bundled,
            **options,
        )
    save_sheet([reply.images[0] for reply in replies], len(replies), path)


def comparison_section(first: str, second: str, prompts: Sequence[str], seed: int) -> str:
    """A section of the model card with two sheets of the same prompts; empty if nothing was drawn."""
    if not prompts:
        return ""
    shown = "\n".join(f"- {prompt}" for prompt in prompts)
    return f"""
The same prompts, {first} (samples/{first}.png) and {second} (samples/{second}.png), seed {seed}:

{shown}

![{first}](samples/{first}.png)
![{second}](samples/{second}.png)
"""


def model_card(model: Limner, data: str, examples: list[Example], prompts: list[str], config: FinetuneConfig) -> str:
    """The adapter's README: its base, what made it, how to use it."""
    loop = config.joint.loop
    pictured = comparison_section("before", "after", prompts, config.seed)
    return f"""---
base_model: {model.name}
library_name: limner
tags: [lora, text-to-image]
---

# A Limner adapter for {model.name}

LoRA of rank {config.rank} on {" and ".join(config.parts) or "nothing"}; trained whole: {", ".join(config.extra) or "nothing"}.
Made of {len(examples)} examples ({Path(data).name}) in {loop.steps} steps of {loop.batch_size} conversations, learning rate
{loop.learning_rate:.2g}, seed {config.seed}.

    limner chat --adapter {{this folder}}

    model = limner.load("{model.name}")
    model.load_adapter("{{this folder}}")
{pictured}"""
