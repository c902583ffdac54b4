"""Distillation of a few-step student: LoRA on the MM-DiT whose single unguided step replaces several guided ones.

The target is progressive distillation's (Salimans and Ho 2022, arXiv:2202.00512) with guidance folded in (Meng et al. 2023,
arXiv:2210.03142); it is taken at points of the student's own path, which are those that it will meet. The result is an
adapter, as LCM-LoRA is (Luo et al. 2023, arXiv:2311.05556): without it the model is the teacher.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from peft import LoraConfig, set_peft_model_state_dict
from torch import Tensor

from ..detokenizer import flow
from ..detokenizer.condition import Condition
from ..detokenizer.guidance import Guidance
from ..detokenizer.mmdit import MMDiT
from ..detokenizer.mmdit_detokenizer import GuidedVelocity
from ..inference import adapter_files, lora, precision
from ..inference.model import Limner
from ..mllm.messages import Message
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
from .config_parsing import parse_overrides
from .data import JointBatch
from .datasets.mixture import ConversationSource, Mixture, load_sources
from .flow_loss import encode_pictures
from .loop import LoopConfig, fit
from .losses import squared_error
from .objective import count_over_processes, run_stream
from .option_checks import check_numbers, check_seed
from .random_choices import Sample, random_choices
from .resume import only_run
from .stages.joint_options import JointStage, check_data
from .trainable import TrainableModel

ADAPTER_NAME = "student"
MAX_TRIES = 64
"""After so many conversations without a drawing a source counts as one without drawings."""


@dataclass(frozen=True)
class DistillConfig:
    steps: int = 4
    """Steps of the student from noise to picture"""
    teacher_steps: int = 20
    """Steps of the teacher from noise to picture; a multiple of the student's"""
    guidance_scale: float | None = None
    """Guidance scale of the teacher; None means the model's default"""
    rank: int = 32
    alpha: float = 32.0
    warm_start: str = ""
    """Folder of an earlier student, of this rank and base, to go on from"""
    data: tuple[str, ...] = ("world",)
    """Data sets whose requests are drawn; of their pictures only those in requests are used"""
    seed: int = 0
    dtype: str = "auto"
    loop: LoopConfig = field(
        default_factory=lambda: LoopConfig(
            steps=400,
            batch_size=12,
            learning_rate=0.0,
            warmup_steps=20,
            decay_ratio=0.5,
            ema_decay=0.98,
            save_every=50,
            sample_every=0,
        )
    )

    def __post_init__(self) -> None:
        if self.steps < 1 or self.teacher_steps < 1 or self.teacher_steps % self.steps:
            raise ValueError(f"teacher_steps is {self.teacher_steps}; it must be a multiple of steps, {self.steps}")
        check_numbers(self, "rank", least=1)
        check_seed(self)
        check_numbers(self, "alpha", above=0)
        check_numbers(self, "guidance_scale", least=0)
        check_data(self.data)
        precision.check_dtype(self.dtype)
        if self.loop.sample_every:
            raise ValueError(
                f"loop.sample_every is {self.loop.sample_every} and has no effect here: samples are drawn before and after"
            )
        if self.loop.parallel != "ddp":
            raise ValueError(f"loop.parallel is {self.loop.parallel!r}; the student is trained whole: ddp")


def load_config(overrides: Sequence[str] = ()) -> DistillConfig:
    """Defaults and overrides (``loop.steps=100``), every key checked. Raises ValueError."""
    return parse_overrides(DistillConfig, overrides)


@dataclass(frozen=True)
class DrawingSource:
    """Those conversations of a source in which something is drawn."""

    source: ConversationSource

    @property
    def kept(self) -> bool:
        return self.source.kept

    def sample(self, seed: int, place: int) -> list[Message]:
        return self._found(seed, place)[0]

    @property
    def fingerprint(self) -> str:
        return self.source.fingerprint

    def name(self, seed: int, place: int) -> str:
        return self.source.name(seed, self._found(seed, place)[1])

    def _found(self, seed: int, place: int) -> tuple[list[Message], int]:
        for number in range(place * MAX_TRIES, (place + 1) * MAX_TRIES):
            messages = self.source.sample(seed, number)
            if any(p["type"] == "image" for m in messages if m["role"] == "assistant" for p in m["content"]):
                return messages, number
        raise ValueError(f"{MAX_TRIES} conversations without a drawing, up to {self.source.name(seed, number)}")


def switch_student(mmdit: MMDiT, on: bool) -> None:
    """Turn the student's LoRA on or off; off, the MM-DiT is the teacher."""
    lora.set_scale(mmdit, {ADAPTER_NAME: float(on)})


@dataclass
class DrawingGroup:
    """Samples whose pictures and references have the same shapes, so that nothing is padded."""

    samples: list[Sample]
    latents: Tensor
    """(samples, channels, h, w)"""
    references: list[list[Tensor]]

    @property
    def drawings(self) -> list[int]:
        return [drawing for drawing, _ in self.samples]


def group_by_shape(
    batch: JointBatch, latents: list[Tensor], samples: Sequence[Sample], dropped: set[int]
) -> list[DrawingGroup]:
    """``samples`` of the batch's drawings, grouped by the shapes of their pictures and references.

    ``latents`` are `encode_pictures`; the drawings in ``dropped`` lose their references.
    """
    groups: dict[tuple, list[Sample]] = {}
    for drawing, number in samples:
        references = () if drawing in dropped else tuple(s for s, _ in batch.references[drawing])
        groups.setdefault((batch.target[drawing][0], references), []).append((drawing, number))
    return [
        DrawingGroup(
            members,
            torch.stack([latents[s][i] for s, i in (batch.target[d] for d, _ in members)]),
            [[latents[s][i] for s, i in batch.references[d]] if references else [] for d, _ in members],
        )
        for (_, references), members in groups.items()
    ]


def student_losses(
    trainable: TrainableModel, config: DistillConfig, scale: float, batch: JointBatch, step: int
) -> dict[str, Tensor]:
    """The loss of a batch: the mean over its drawings (over those of all accumulated batches and processes), each the mean over
    its pixels and the segments of its path."""
    batch = batch.to(trainable.stream.device)
    detokenizer = trainable.mmdit_detokenizer
    choices = random_choices(JointStage(), batch, config.seed, step)
    with torch.no_grad():
        _, inputs = run_stream(trainable, batch)
        assert inputs is not None
        condition = detokenizer.condition(inputs.features, inputs.prompt, inputs.prompt_mask, batch.glyph_text)
    latents = encode_pictures(trainable, batch)
    total = torch.zeros((), device=condition.context.device)
    for group in group_by_shape(batch, latents, [(drawing, 0) for drawing in range(len(batch.target))], set()):
        rows = condition.rows(group.drawings)
        noise = choices.noise(group.samples, group.latents.shape[1:], condition.context.device)
        height, width = (n * detokenizer.autoencoder.downsample_factor for n in group.latents.shape[-2:])
        group_condition = replace(detokenizer.place_glyphs(rows, height, width), references=group.references)
        shift = detokenizer.timestep_shift(height, width)
        total = total + path_loss(detokenizer.mmdit, group_condition, noise, shift, config, scale).sum()
    return {"loss": total / count_over_processes(batch).drawings}


def path_loss(
    mmdit: MMDiT, condition: Condition, noise: Tensor, shift: float, config: DistillConfig, scale: float
) -> Tensor:
    """The student's squared error for each picture (batch,), averaged over the segments of its own path from ``noise``.

    In each segment the target is the mean velocity of the teacher's guided steps from the same point.
    """
    dtype = mmdit.proj_out.weight.dtype
    ratio = config.teacher_steps // config.steps
    teacher_times = flow.inference_timesteps(config.teacher_steps, shift)
    times = teacher_times[::ratio]
    with torch.no_grad():
        guided = GuidedVelocity(mmdit, condition, Guidance(scale), teacher_times.to(noise.device), dtype)
        plain = GuidedVelocity(mmdit, condition, Guidance(), times.to(noise.device), dtype)
    x, errors = noise, []
    for segment, (t, t_next) in enumerate(pairwise(times.tolist())):
        switch_student(mmdit, False)
        with torch.no_grad():
            teacher_x = x
            for now, then in pairwise(teacher_times[segment * ratio : (segment + 1) * ratio + 1]):
                teacher_x = teacher_x + (then - now).item() * guided(teacher_x, now.item())
        switch_student(mmdit, True)
        velocity = plain(x, t)
        errors.append(squared_error(velocity, (teacher_x - x) / (t_next - t)))
        x = x + (t_next - t) * velocity.detach()
    return torch.stack(errors).mean(0)


def distill(
    model: Limner, output: str | Path, config: DistillConfig | None = None, prompts: Sequence[str] = ()
) -> Path:
    """Train a student of ``model`` and write its adapter to ``output``; the model is as it was before.

    ``prompts`` are drawn by the teacher and the student for the adapter's card. A run that was stopped goes on. Raises
    ValueError for options or data that cannot be used, and for a model that draws with another network than the MM-DiT.
    """
    config, output = config or DistillConfig(), Path(output)
    check_output(model, output)
    if not isinstance(model.detokenizer.transformer, MMDiT):
        raise ValueError("only an MM-DiT can be distilled; this model paints with another network")
    with prepared(model, config.dtype, config.seed), ExitStack() as held:
        return _train(model, output, config, prompts, held)


def _train(model: Limner, output: Path, config: DistillConfig, prompts: Sequence[str], held: ExitStack) -> Path:
    scale = model.defaults.guidance_scale if config.guidance_scale is None else config.guidance_scale
    samples, first = output / "samples", parallel.rank() == 0
    if not config.loop.learning_rate:
        assert isinstance(model.detokenizer.transformer, MMDiT)
        rate = learning_rate(model.detokenizer.transformer.config.width)
        config = replace(config, loop=replace(config.loop, learning_rate=rate))
    loop = config.loop
    start = load_student(Path(config.warm_start), model, config) if config.warm_start else {}
    sources = load_sources(config.data, model.encoder, model.mllm.max_position_embeddings, 1.0)
    drawings = [(DrawingSource(source), weight) for source, weight in sources]
    make_batch = Mixture(drawings, model.encoder, loop.batch_size, config.seed, pool=16)
    if first:
        held.enter_context(only_run(output))
        check_run(output, model, make_batch, config)
        if not (samples / "teacher.png").exists():
            teacher = {"num_inference_steps": config.teacher_steps, "guidance_scale": scale}
            draw_samples(model, prompts, config.seed, samples / "teacher.png", **teacher)
    with prepare_student(model, config) as adapter:
        if start:
            set_peft_model_state_dict(adapter.tuners["mmdit"], start, adapter_name=ADAPTER_NAME)
        trainable = TrainableModel(model.mllm, model.detokenizer)
        trained = sum(p.numel() for p in trainable.parameters() if p.requires_grad)
        ways = f"{config.steps} plain steps for {config.teacher_steps} guided by {scale:g}"
        print(f"training  {trained / 1e6:.2f} M parameters: {ways}", flush=True)
        parallel.barrier()
        losses = partial(student_losses, trainable, config, scale)
        fit("distill", trainable, make_batch, losses, loop, output / RUN_FOLDER)
        if first:
            student = {"num_inference_steps": config.steps, "guidance_scale": 1.0}
            draw_samples(model, prompts, config.seed, samples / "student.png", **student)
            made = {"student_steps": config.steps, "config": asdict(config)}
            save_adapter(adapter, output, {}, made, model_card(model, config, scale, prompts), loop)
        parallel.barrier()  # the student is there for all when this returns
    return output


def prepare_student(model: Limner, config: DistillConfig) -> AdapterTraining:
    """Only the student's LoRA requires a gradient."""
    lora_config = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=adapter_files.TARGETS["mmdit"])
    return AdapterTraining(model, ADAPTER_NAME, {"mmdit": lora_config})


def load_student(folder: Path, model: Limner, config: DistillConfig) -> dict[str, Tensor]:
    """LoRA weights of an earlier student. Raises ValueError for a folder without one, or for another base, rank or alpha."""
    adapter = adapter_files.read_card(folder)
    made = adapter["made"]
    if adapter["base_fingerprint"] != model.adapters.fingerprint or "student_steps" not in made:
        raise ValueError(f"warm_start: {folder} holds no student of this model, {model.name!r}")
    for name in ("rank", "alpha"):
        if made["config"][name] != getattr(config, name):
            raise ValueError(
                f"warm_start: {folder} has {name} {made['config'][name]}, this run {getattr(config, name)}"
            )
    return adapter_files.read_lora(folder / "mmdit")[1]


def model_card(model: Limner, config: DistillConfig, scale: float, prompts: Sequence[str]) -> str:
    """The adapter's README."""
    pictured = comparison_section("teacher", "student", prompts, config.seed)
    return f"""---
base_model: {model.name}
library_name: limner
---

# {config.steps}-step student of {model.name}

LoRA of rank {config.rank} on the MM-DiT: {config.steps} steps without guidance for {config.teacher_steps} steps guided by
{scale:g}, trained by `limner distill` for {config.loop.steps} steps of {config.loop.batch_size} conversations.

    limner chat --adapter DIR                # draws in {config.steps} steps; --steps 28 is the teacher
{pictured}
Settings: `{json.dumps(asdict(config))}`
"""
