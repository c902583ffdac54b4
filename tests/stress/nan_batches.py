"""Batches that are not finite, in every place where one can arise, among good ones: none reaches weights, moments or averages."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import torch
from hypothesis import strategies as st

from cases import Outcome, try_cases
from helpers import make_limner, picture
from limner.train.data import JointBatch, joint_batch
from limner.train.loop import LoopConfig, Trainer, fit
from limner.train.objective import JointObjective
from limner.train.stages.joint_options import JointStage
from limner.train.trainable import TrainableModel

TITLE = "batches that are not finite, among good ones: none reaches weights, moments, averages or the log"
CASES = 100

STEPS = 5
LOSSES = ("language", "features", "flow")
MODULES = (
    "stream.vision_tower",
    "stream.input_resampler",
    "stream.output_resampler",
    "stream.llm.model.layers.0",
    "stream.llm.model.norm",
    "detokenizer.adapter",
    "detokenizer.mmdit.blocks.1",
    "detokenizer.mmdit.proj_out",
)
VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf, "3e38": 3e38, "1e25": 1e25}


@dataclass(frozen=True)
class Case:
    place: tuple[str, str]
    """("loss", its name), which is multiplied; ("sum", its name), to which the value is added, so that the gradient is finite;
    ("output", a module) or ("gradient", the number of a parameter), which are multiplied"""
    value: str
    steps: tuple[int, ...]
    """Those that are spoilt, in one of their batches"""
    accumulate: int
    optimizer: str
    dtype: str
    ema: bool
    clip: float
    order: tuple[int, ...]


CASE = st.builds(
    Case,
    place=st.one_of(
        st.tuples(st.just("loss"), st.sampled_from(LOSSES)),
        st.tuples(st.just("sum"), st.sampled_from(LOSSES)),
        st.tuples(st.just("output"), st.sampled_from(MODULES)),
        st.tuples(st.just("gradient"), st.integers(0, 10**6).map(str)),
    ),
    value=st.sampled_from(sorted(VALUES)),
    steps=st.sets(st.integers(0, STEPS - 1), min_size=1, max_size=STEPS - 1).map(lambda found: tuple(sorted(found))),
    accumulate=st.integers(1, 3),
    optimizer=st.sampled_from(("adamw", "muon")),
    dtype=st.sampled_from(("float32", "bfloat16")),
    ema=st.booleans(),
    clip=st.sampled_from((0.0, 1.0)),
    order=st.permutations(range(4)).map(tuple),
)


class Run:
    """The model that all cases train, and its batches."""

    def __init__(self) -> None:
        self.model = make_limner()
        self.weights = {name: value.clone() for name, value in self.model.state_dict().items()}

        def said(*parts: dict) -> list[dict]:
            return [
                {"role": "user", "content": [{"type": "text", "text": "draw"}]},
                {"role": "assistant", "content": list(parts)},
            ]

        text, drawn = {"type": "text", "text": "Here"}, {"type": "image", "image": picture(1)}
        self.batches = [
            joint_batch([said(*parts), said(drawn)], self.model.encoder)
            for parts in ((text, drawn), (drawn, text), (text,), (text, drawn, text))
        ]

    def check(self, case: Case) -> None:
        """Raises AssertionError where what is not finite has changed anything, or was not counted."""
        self.model.to(torch.float32)
        self.model.load_state_dict(self.weights)
        self.model.to(getattr(torch, case.dtype)).requires_grad_(True)
        trainable = TrainableModel(self.model.mllm, self.model.detokenizer)
        objective = JointObjective(trainable, JointStage(flow_samples=1), 0)
        value, touched = VALUES[case.value], set()
        spoilt = {step * case.accumulate + step % case.accumulate for step in case.steps}  # batches
        number = -1

        def losses(batch: JointBatch, step: int) -> dict[str, torch.Tensor]:
            nonlocal number
            number = step
            made = objective(batch, step)
            kind, name = case.place
            if kind in ("loss", "sum") and step in spoilt:
                touched.add(step)
                made[name] = made[name] * value if kind == "loss" else made[name] + value
                made = objective.add_sum({key: loss for key, loss in made.items() if key != "loss"})
            return made

        def spoil(tensor: torch.Tensor) -> torch.Tensor:
            if number not in spoilt:
                return tensor
            touched.add(number)
            return tensor * value

        learned = [parameter for parameter in trainable.parameters() if parameter.requires_grad]
        real, seen = Trainer.step, []

        def step(trainer: Trainer, *given: object) -> tuple[dict[str, torch.Tensor], float]:
            before = {key: tensor.clone() for key, tensor in trainer.optimizer.state_dict().items()}
            found = real(trainer, *given)
            after = trainer.optimizer.state_dict()
            assert all(tensor.isfinite().all() for tensor in after.values()), (
                f"step {given[0]}: the state is not finite"
            )
            assert all(p.isfinite().all() for p in learned), f"step {given[0]}: a weight is not finite"
            if not math.isfinite(found[1]):
                seen.append(given[0])
                # moments of a first step that is skipped are there, and zero
                same = all(torch.equal(after[key], before.get(key, torch.zeros_like(after[key]))) for key in after)
                same = same and before.keys() <= after.keys()
                assert same, f"step {given[0]} is bad and changed something"
            return found

        with ExitStack() as held:
            folder = Path(held.enter_context(TemporaryDirectory()))
            held.enter_context(patch.object(Trainer, "step", step))
            said = StringIO()
            held.enter_context(redirect_stdout(said))
            held.enter_context(redirect_stderr(StringIO()))
            handles = []
            if case.place[0] == "output":
                unit = trainable.get_submodule(case.place[1])
                handles.append(unit.register_forward_hook(lambda _, __, out: on_output(spoil, out)))
            elif case.place[0] == "gradient":
                handles.append(learned[int(case.place[1]) % len(learned)].register_hook(spoil))
            for handle in handles:
                held.callback(handle.remove)
            config = LoopConfig(
                steps=STEPS,
                batch_size=2,
                learning_rate=1e-3,
                warmup_steps=1,
                num_workers=0,
                log_every=1,
                gradient_accumulation_steps=case.accumulate,
                optimizer=case.optimizer,
                ema_decay=0.9 * case.ema,
                max_grad_norm=case.clip,
            )
            fit("nan", trainable, lambda k: self.batches[case.order[k % 4]], losses, config, folder)
            log = (folder / "log.jsonl").read_text()
        assert not any(word in log for word in ("NaN", "Infinity")), log
        assert said.getvalue().count("batch skipped") == len(seen)
        if case.value in ("nan", "inf", "-inf"):
            missed = {batch // case.accumulate for batch in touched} - set(seen)
            assert not missed, f"{case.value} in the steps {missed} was not noticed"


def on_output(change: Callable[[torch.Tensor], torch.Tensor], out: object) -> object:
    """``change`` applied to the tensor of a module's output, which may be a tuple or a dataclass."""
    if isinstance(out, torch.Tensor):
        return change(out)
    if isinstance(out, tuple):
        return (on_output(change, out[0]), *out[1:])
    return out


def run(cases: int, seed: int) -> Outcome:
    """``cases`` runs of some steps, of which some are spoilt."""
    torch.set_num_threads(1)
    return try_cases(CASE, Run().check, cases, seed)
