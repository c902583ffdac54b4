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

from ..evaluation.sheet import sheet
from ..inference import adapter_files, precision
from ..inference.adapter_files import STREAMS, TARGETS, mmdit_targets
from ..inference.adapters import EXTRA, Adapter, Adapters
from ..inference.model import Limner
from ..inference.output import check_folder, write_text
from ..inference.progress import Progress
from ..world.talk import PLANNED
from . import parallel
from .data import JointBatch
from .datasets import check, readers
from .datasets.check import Report
from .datasets.example import Captioned, Example
from .datasets.mixture import Finite, Mixture, Told, World
from .flow_loss import draws
from .frozen import Store, encoders
from .kept import keep
from .loop import LoopConfig, backward, fit
from .optimizer import MasterOptimizer
from .resume import SETTINGS, same_run, settled
from .stages.joint import joint_losses
from .stages.joint_options import JointStage
from .strict import overridden
from .trainee import Trainee, in_model, recomputing

CHANGES = ("edit", "follow_up", "describe")
"""Of nano's world half of what is replayed: what is said and made of earlier pictures is forgotten first, as captioned pictures
have none before them."""
BARE = 0.25
"""Share of what is replayed, at least, that is drawn without its words: there all of it is the base's (`joint_losses`)"""
IDLE = ("data", "train", "draw_share", "validation", "align_weight", "align_block", "compile", "sample_prompts")
"""Of a joint stage, what a fine-tuning does not do."""
NAME = "new"
"""What the adapter is called while it trains."""
RUN = "run"
"""Folder of checkpoints, log and figures inside the adapter's"""


@dataclass
class FinetuneConfig:
    rank: int = 32
    alpha: float = 32.0
    parts: tuple[str, ...] = ("llm", "mmdit")
    """What gets LoRA."""
    streams: tuple[str, ...] = ()
    """Of the MM-DiT, the streams that get it. The context's alone can tell what is new from what is known: what is drawn of
    other words stays as it was. The image's too learn more, such as a style. () is context where something is replayed, so
    that it is kept, else both"""
    extra: tuple[str, ...] = ()
    """Small parts trained whole beside LoRA: queries, boi, input_resampler, output_resampler, adapter. A new
    object gains nothing by them (docs/finetune.md)."""
    draw_share: float = 0.8
    """How often a captioned picture is drawn from its caption; else it is described."""
    planned: float | None = None
    """Share of drawings that follow a plan, the fullest caption said before the picture; None is 0.85 for nano, which plans
    all it draws, and 0 for others"""
    replay: str = "auto"
    """What the base learned before, mixed in so that it is not forgotten: "world", "none", or "auto" (world for nano). Of
    it the base's own answers are learned, not the truth: what the adapter is not for, it leaves alone."""
    replay_share: float = 0.5
    replay_weight: float = 7.5
    """What leaving the base's answers counts in the losses, beside 1 for what is new: their errors are small, and it is to
    stay so"""
    seed: int = 0
    dtype: str = "auto"
    """Of the frozen weights while training; "auto" is bfloat16 where the machine is faster in it and the base loses nothing by
    it, else float32"""
    samples: int = 4
    """Prompts drawn before and after."""
    joint: JointStage = field(
        default_factory=lambda: JointStage(
            density_mean=0.3,
            loop=LoopConfig(
                steps=375,
                batch_size=16,
                learning_rate=0.0,
                warmup=30,
                decay=0.5,
                ema_decay=0.98,
                save_every=100,
                sample_every=0,
                workers=None,
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
        for name, most in (("draw_share", 1), ("planned", 1), ("replay_share", 0.95)):
            if not 0 <= (getattr(self, name) or 0) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; it must lie between 0 and {most}")
        plain = JointStage()
        for name in IDLE:
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
    return overridden(FinetuneConfig, overrides)


def with_options(options: Mapping[str, Any]) -> FinetuneConfig:
    """Of fields of `FinetuneConfig` and ``steps``. Raises ValueError for an unknown one or a value that makes no sense."""
    fields = FinetuneConfig.__dataclass_fields__
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
    figures stay in ``output/run``, and checkpoints where ``joint.loop.keep`` asks for several. ``dry_run`` takes two steps
    whose result is thrown away. Raises ValueError for bad data or options.
    """
    if config is not None and options:
        raise ValueError(f"config and {', '.join(options)}: give one or the other")
    config, output = config or with_options(options), Path(output)
    if (output / adapter_files.CARD).exists():
        raise ValueError(f"{output} holds a finished adapter already; choose another folder or take it away")
    check_folder(output, f"{RUN}/{SETTINGS}")
    if model.adapters.given:
        raise ValueError("adapters are loaded: merge_adapters() or delete_adapter() first")
    print(f"checking {data}", flush=True)
    report = check.check(readers.read(data), model.encoder, model.mllm.longest)
    print(report.table(), flush=True)
    report.require()
    with model.adapters.aside(), as_it_was(model, NAME):
        device = parallel.start()
        model.to(device, training_precision(model, device or model.mllm.device, config.dtype))
        return _train(model, report, str(data), output, config, dry_run)


@contextmanager
def as_it_was(model: Limner, name: str) -> Iterator[None]:
    """Afterwards the model has its precision again and no adapter ``name``."""
    before = {p: p.dtype for p in model.parameters()}
    try:
        yield
    finally:
        if name in model.adapters.loaded:
            model.delete_adapter(name)
        for parameter, dtype in before.items():
            parameter.data = parameter.data.to(dtype)
        model.requires_grad_(True).eval()


def _train(model: Limner, report: Report, data: str, output: Path, config: FinetuneConfig, dry_run: bool) -> Path:
    torch.manual_seed(config.seed)
    stage, examples = config.joint, report.examples
    loop = stage.loop
    if not loop.learning_rate:
        loop.learning_rate = learning_rate(model.mllm.width)
    prompts = sample_prompts(examples, config)
    trainee, start = prepared(model, config)
    trained = {n: p.numel() for n, p in trainee.named_parameters() if p.requires_grad}
    print(
        f"training  {sum(trained.values()) / 1e6:.2f} M of {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M "
        f"parameters: LoRA of rank {config.rank} on {' and '.join(config.parts) or 'nothing'}; "
        f"whole: {', '.join(config.extra) or 'nothing'}; in {str(model.mllm.dtype).removeprefix('torch.')}",
        flush=True,
    )
    planned = config.planned if config.planned is not None else (PLANNED if model.name == "nano" else 0.0)
    new = Finite(examples, config.draw_share, planned, report.fingerprint)
    sources: list[tuple[Told, float]] = [(new, 1.0)]
    if replays(model, config):
        stage = replace(stage, context_dropout=max(stage.context_dropout, BARE))
        half = config.replay_share / 2
        sources = [(new, 1 - config.replay_share), (World(), half), (World(CHANGES), half)]
        print(f"replay    {config.replay_share:.0%} of the conversations are of nano's own world", flush=True)
    make_batch = Mixture(sources, model.encoder, loop.batch_size, config.seed, pool=8)
    make_batch.keys = True
    if stage.precomputed:
        trainee.frozen.store = Store(stage.precomputed, encoders(model))
    losses = partial(
        adapted_losses, model, trainee, stage, config.seed, config.replay_weight if len(sources) > 1 else None
    )
    samples, run, first = output / "samples", output / RUN, parallel.rank() == 0
    settings = {"data": make_batch.fingerprints, "base": model.adapters.fingerprint, "config": settled(config)}
    if first and not dry_run:
        same_run(run, settings)
    with recomputing(trainee, stage.gradient_checkpointing):
        seconds, peak = trial(make_batch, losses, trainee, stage)
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
    parallel.wait()
    with recomputing(trainee, stage.gradient_checkpointing):
        optimizer = fit("finetune", trainee, make_batch, losses, loop, run)
    averaged = {in_model(name): parallel.whole(value) for name, value in optimizer.averaged().items()}
    if not first:
        return output
    if prompts and loop.parallel == "ddp":  # what was sharded is gathered for saving and cannot draw
        draw_samples(model, prompts, config.seed, samples / "after.png")
    extra = {name: averaged[name] - base for name, base in start.items()}
    made = {"data": data, "examples": len(examples), "steps": loop.steps, "config": asdict(config)}
    write_text(output / "README.md", card(model, data, examples, prompts, config))
    model.adapters.save(NAME, output, extra, made)
    finish(run, loop)
    return output


def finish(run: Path, loop: LoopConfig) -> None:
    """The log and the figures of a run stay, and the checkpoints where several were asked for; one alone was for going on."""
    if loop.keep == 1:
        shutil.rmtree(run / "checkpoints")


def adapted_losses(
    model: Limner, trainee: Trainee, stage: JointStage, seed: int, weight: float | None, batch: JointBatch, step: int
) -> dict[str, Tensor]:
    """The first source is learned; of what is replayed, the base's own answers are kept (`keep`), by ``weight``; None
    replays nothing, or the truth."""
    kept = None
    if weight is not None:
        batch = batch.to(model.mllm.device)
        replayed = torch.tensor(batch.sources, device=model.mllm.device) > 0
        with model.adapters.resting(NAME):
            kept = keep(trainee, stage, seed, batch, step, replayed, weight)
    return joint_losses(trainee, stage, seed, batch, step, kept)


def replays(model: Limner, config: FinetuneConfig) -> bool:
    """Whether what the base knows is mixed in."""
    return config.replay == "world" or (config.replay == "auto" and model.name == "nano")


def prepared(model: Limner, config: FinetuneConfig) -> tuple[Trainee, dict[str, Tensor]]:
    """The trainee with only the adapter requiring a gradient, and the extras' values before (fp32)."""
    owner: Adapters = model.adapters
    trainee = Trainee(model.mllm, model.detokenizer)
    trainee.requires_grad_(False)
    if "mmdit" in config.parts and not config.streams:
        config.streams = ("context",) if replays(model, config) else STREAMS
    for part in config.parts:
        targets = mmdit_targets(config.streams) if part == "mmdit" else TARGETS[part]
        owner.add_lora(NAME, part, LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets))
    owner.prepare_extra(config.extra)
    owner.add(NAME, Adapter(1.0, config.parts))
    start = {}
    for name, parameter in model.named_parameters():
        whole = any(name.startswith(EXTRA[extra]) for extra in config.extra)
        parameter.requires_grad_(whole or f".lora_A.{NAME}." in name or f".lora_B.{NAME}." in name)
        if whole:
            start[name] = parameter.detach().float().clone()
            owner.base[name] = parameter.detach().clone()
    return trainee, start


def learning_rate(width: int) -> float:
    """2e-4 at a width of 4096, as is usual, and 1.3e-3 at nano's 256, measured (docs/finetune.md): a power of the ratio."""
    return round(2e-4 * (4096 / width) ** 0.675, 5)


def training_precision(model: Limner, device: torch.device, wanted: str = "auto") -> torch.dtype:
    """Of the frozen weights: what the machine computes fast, unless bf16 would round the base; the same on all processes.

    Raises ValueError for a name that is no precision.
    """
    dtype = precision.choose(device, wanted)
    if wanted == "auto" and not all(torch.equal(p, p.to(dtype).to(p.dtype)) for p in model.parameters()):
        dtype = torch.float32
    return parallel.agreed(dtype)


def trial(
    make_batch: Mixture, losses: Callable[[JointBatch, int], dict[str, Tensor]], trainee: Trainee, stage: JointStage
) -> tuple[float, int]:
    """Seconds a step and peak memory in bytes, from two steps that change nothing.

    The batches of a pool differ, as they are sorted by what is drawn in them. The largest one shows the memory, and warms up;
    the one that is nearest to the pool's mean in `work` is timed.
    """
    batches = [make_batch(step) for step in tqdm(range(make_batch.pool), desc="a pool", leave=False, disable=None)]
    works = [parallel.total(work(batch, trainee, stage)) for batch in batches]  # all processes choose the same
    mean = sum(works) / len(works)
    largest = max(range(len(works)), key=lambda i: works[i])
    usual = min(range(len(works)), key=lambda i: abs(works[i] - mean))
    optimizer = MasterOptimizer(trainee.named_parameters(), 1.0, ema_decay=0.9)
    for step in tqdm((largest, usual), desc="trying", leave=False, disable=None):
        begun = time.monotonic()
        backward(losses(batches[step], step)["loss"])
        optimizer.step(0.0, 1.0)
        seconds = time.monotonic() - begun
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_memory()
    return seconds * mean / works[usual], peak


def work(batch: JointBatch, trainee: Trainee, stage: JointStage) -> float:
    """About how many multiplications a step of this batch takes: parameters times tokens, forward, backward and, of what is
    kept, the base's forward."""
    stream, detokenizer = trainee.stream, trainee.detokenizer
    rows, tokens = batch.stream.input_ids.shape
    written = rows * tokens + len(batch.target) * stream.config.num_queries
    passes = 3 if any(batch.sources) else 2
    total = written * passes * size(stream.llm.get_decoder().layers)
    if not batch.target:
        return total
    kept = torch.tensor(batch.sources)[batch.stream.drawing_row] > 0
    context = detokenizer.adapter.config.num_tokens + stream.config.prompt_tokens
    for drawing, count in enumerate(draws(stage, batch, 0, 0, kept).counts):
        shown = [batch.target[drawing], *batch.references[drawing]]
        pixels = sum(batch.pictures[shape][0, ..., 0].numel() for shape, _ in shown)
        # either stream has half of the parameters
        own = (context + pixels // detokenizer.multiple**2) * size(detokenizer.mmdit.blocks) / 2
        total += count * own * (3 if kept[drawing] else 2)
    return total


def size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def peak_memory() -> int:
    """Of this process, in bytes."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def sample_prompts(examples: list[Example], config: FinetuneConfig) -> list[str]:
    """Captions, or requests that a drawing answers, of a few examples far apart in the set."""
    told = []
    for example in examples[:: max(1, len(examples) // max(1, config.samples))]:
        if isinstance(example, Captioned):
            told.append(example.captions[0])
        elif len(example.messages) > 1 and any(p["type"] == "image" for p in example.messages[1]["content"]):
            words = [p["text"] for p in example.messages[0]["content"] if p["type"] == "text"]
            if len(words) == len(example.messages[0]["content"]):  # a request without a picture of its own
                told.append(" ".join(words))
    return told[: config.samples]


def draw_samples(model: Limner, prompts: Sequence[str], seed: int, path: Path, **options: Any) -> None:
    with Progress() as progress:
        replies = model.eval().draw(list(prompts), max_new_tokens=32, seed=seed, callback=progress, **options)
    sheet([reply.images[0] for reply in replies], len(replies), path)


def compared(first: str, second: str, prompts: Sequence[str], seed: int) -> str:
    """Two sheets of the same prompts, for a card; nothing where nothing was drawn."""
    if not prompts:
        return ""
    shown = "\n".join(f"- {prompt}" for prompt in prompts)
    return f"""
The same prompts, {first} (samples/{first}.png) and {second} (samples/{second}.png), seed {seed}:

{shown}

![{first}](samples/{first}.png)
![{second}](samples/{second}.png)
"""


def card(model: Limner, data: str, examples: list[Example], prompts: list[str], config: FinetuneConfig) -> str:
    """The adapter's README: its base, what made it, how to use it."""
    loop = config.joint.loop
    pictured = compared("before", "after", prompts, config.seed)
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
