"""What an adapter leaves alone: the base's answers as targets, and the base itself while an adapter trains."""

import itertools
from collections import Counter
from dataclasses import replace

import pytest
import torch

from helpers import make_limner
from limner.train import finetune
from limner.train import self_distillation as kept_module
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.finetune import FinetuneConfig, prepare_adapter
from limner.train.losses import kl_divergence
from limner.train.objective import JointObjective
from limner.train.random_choices import random_choices
from limner.train.self_distillation import MAX_DISTILLED_DRAWINGS as kept_drawings
from limner.train.self_distillation import (
    REFERENCE_WEIGHT,
    ReplayObjective,
    distilled_choices,
    self_distillation_targets,
)
from limner.train.stages.joint_options import JointStage

STAGE = JointStage(flow_samples=2, prompt_dropout=0.3, context_dropout=0.0)


def config():
    return FinetuneConfig(rank=2, modules_to_save=("queries", "boi"))


@pytest.fixture
def model():
    model = make_limner(prompt_tokens=6, shapes=((128, 128), (96, 160), (160, 96)))
    model.detokenizer.mmdit.config.position_table = 32
    return model


HALVES = ((WorldSource(("describe",)), 0.5), (WorldSource(("draw", "edit")), 0.5))


def mixed(model, shares=HALVES, size=8):
    """A batch whose first source draws nothing, in no earlier exchange either."""
    for seed in itertools.count():
        batch = Mixture(list(shares), model.encoder, size, seed, pool=1)(0)
        if all(batch.sources[row] for row in batch.stream.drawing_row.tolist()):
            return batch


def disturb(model, amount=0.1):
    """What training does: adapter and extras move away from the base."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                parameter += amount * torch.randn_like(parameter) * (1 if "lora" in name else 0.3)


def state(model):
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def test_a_batch_knows_where_its_conversations_are_from(model):
    batch = mixed(model)
    assert sorted(batch.sources) == [0] * 4 + [1] * 4
    drawn = {batch.sources[row] for row in batch.stream.drawing_row.tolist()}
    assert drawn == {1}


def test_a_disabled_adapter_is_the_base_and_comes_back(model):
    batch = mixed(model)
    with torch.no_grad():
        trainable, training = prepare_adapter(model, config())
        base = JointObjective(trainable, STAGE, 0)(batch, 0)
        disturb(model)
        now = JointObjective(trainable, STAGE, 0)(batch, 0)
        before, learns = state(model), [p.requires_grad for p in model.parameters()]
        with training.disabled():
            assert [p.requires_grad for p in model.parameters()] == learns
            resting = JointObjective(trainable, STAGE, 0)(batch, 0)
        again = JointObjective(trainable, STAGE, 0)(batch, 0)
    assert all(torch.equal(resting[k], base[k]) for k in base) and now["loss"] != base["loss"]
    assert all(torch.equal(again[k], now[k]) for k in now)
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())
    with pytest.raises(RuntimeError, match="stop"), training.disabled():
        raise RuntimeError("stop")
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_fresh_adapter_has_nothing_to_learn_from_what_is_replayed(model):
    trainable, training = prepare_adapter(model, config())
    batch = mixed(model)
    batch.sources = [1] * 8
    losses = ReplayObjective(trainable, STAGE, 0, training, 1.0)(batch, 0)
    assert all(abs(losses[k].item()) < 1e-6 for k in ("language", "features", "flow"))
    losses["loss"].backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert gradients and not any(g.any() for g in gradients), "AdamW would make whole steps of rounding errors"
    model.zero_grad()
    disturb(model)
    losses = ReplayObjective(trainable, STAGE, 0, training, 1.0)(batch, 0)
    assert all(losses[k].item() > 1e-4 for k in ("language", "features", "flow"))
    losses["loss"].backward()
    moved = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert any("mllm.llm" in name and "lora" in name for name in moved)
    assert any("mmdit" in name and "lora" in name for name in moved) and "mllm.queries.weight" in moved
    assert all("lora" in name or name in ("mllm.queries.weight", "mllm.boi_delta") for name in moved)


def test_what_is_not_replayed_learns_from_the_truth(model):
    trainable, training = prepare_adapter(model, config())
    disturb(model)
    batch = mixed(model)
    plain = JointObjective(trainable, STAGE, 0)(batch, 0)
    none = torch.zeros(8, dtype=torch.bool)
    kept = self_distillation_targets(trainable, STAGE, 0, batch, 0, none)
    assert not kept.predicted_velocities and not len(kept.logits)
    same = JointObjective(trainable, STAGE, 0).losses(batch, 0, kept)
    assert all(torch.allclose(same[k], plain[k]) for k in plain)
    # half of it: the words of the first source are told as before, what the second draws is all kept
    half = ReplayObjective(trainable, STAGE, 0, training, 1.0)(batch, 0)
    base = JointObjective(trainable, STAGE, 0)(batch, 0)
    assert all(torch.equal(base[k], plain[k]) for k in plain)
    with training.disabled():
        target = self_distillation_targets(trainable, STAGE, 0, batch, 0, torch.tensor(batch.sources) > 0)
    own = self_distillation_targets(trainable, STAGE, 0, batch, 0, ~none).predicted_velocities
    assert own.keys() == target.predicted_velocities.keys(), "one time and noise each, and two of a conversation"
    rows = batch.stream.drawing_row.tolist()
    drawn = [drawing for drawing, number in own if number == 0]
    assert len(drawn) == len(own) and max(Counter(rows[d] for d in drawn).values()) <= kept_drawings
    shares = {d: rows.count(rows[d]) / [rows[e] for e in drawn].count(rows[d]) for d in drawn}
    weights = {d: shares[d] * (REFERENCE_WEIGHT if batch.references[d] else 1.0) for d in drawn}
    apart = [weights[s[0]] * (target.predicted_velocities[s] - value).square().mean() for s, value in own.items()]
    assert torch.allclose(half["flow"], torch.stack(apart).sum() / len(rows), rtol=1e-4)


def test_what_is_kept_counts_by_its_weight(model, monkeypatch):
    trainable, training = prepare_adapter(model, config())
    disturb(model)
    shares = [(WorldSource(("describe",)), 0.5), (WorldSource(("draw",)), 0.25), (WorldSource(("edit",)), 0.25)]
    batch = mixed(model, shares)
    assert {bool(row) for row in batch.references} == {True, False}

    def losses(weight, changed):
        monkeypatch.setattr(kept_module, "REFERENCE_WEIGHT", changed)
        return ReplayObjective(trainable, STAGE, 0, training, weight)(batch, 0)

    once, ten, none, more = losses(1.0, 1.0), losses(10.0, 1.0), losses(0.0, 1.0), losses(1.0, 5.0)
    for name in ("language", "features", "flow"):
        learned, kept = none[name], once[name] - none[name]
        assert kept > 1e-5 and torch.allclose(ten[name], learned + 10 * kept, rtol=1e-4)
    assert none["language"] > 0 and none["flow"] == 0, "the first source talks, the others draw"
    assert more["language"] == once["language"] and once["flow"] < more["flow"] < 5 * once["flow"]
    for rows in batch.references:
        rows.clear()
    alone = losses(1.0, 5.0)
    assert torch.allclose(alone["flow"], losses(1.0, 1.0)["flow"]), "nothing is made of earlier pictures"


def test_what_is_new_is_never_learned_without_words(model):
    """Guidance enlarges the difference from what is drawn without words: that stays the base's."""
    trainable, _training = prepare_adapter(model, config())
    disturb(model)
    batch = mixed(model)
    bare, worded = (replace(STAGE, context_dropout=share) for share in (1.0, 0.0))
    conversations = torch.tensor(batch.sources) > 0
    new, known = (
        self_distillation_targets(trainable, bare, 0, batch, 0, ~conversations),
        self_distillation_targets(trainable, bare, 0, batch, 0, conversations),
    )
    plain = JointObjective(trainable, worded, 0)(batch, 0)["flow"]
    assert torch.allclose(JointObjective(trainable, bare, 0).losses(batch, 0, new)["flow"], plain)
    assert not torch.allclose(JointObjective(trainable, bare, 0)(batch, 0)["flow"], plain)
    assert JointObjective(trainable, bare, 0).losses(batch, 0, known)["flow"] < 1e-9, (
        "its own, drawn without words as well"
    )


def test_divergence_against_torch_s_own():
    torch.manual_seed(0)
    logits, target = torch.randn(5, 7), torch.randn(5, 7)
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=target), torch.distributions.Categorical(logits=logits)
    )
    assert torch.allclose(kl_divergence(logits, target), expected, atol=1e-6)
    logits.requires_grad_()
    gradient, usual = (
        torch.autograd.grad(loss, logits)[0]
        for loss in (
            kl_divergence(logits, target).sum(),
            torch.nn.functional.kl_div(logits.log_softmax(-1), target.softmax(-1), reduction="sum"),
        )
    )
    assert torch.allclose(gradient, usual, atol=1e-6)
    slots = torch.tensor([2, 3])
    found = kl_divergence(*(v.index_fill(-1, slots, float("-inf")) for v in (logits, target)))
    others = [i for i in range(7) if i not in (2, 3)]
    assert torch.allclose(found, kl_divergence(logits[:, others], target[:, others]), atol=1e-6)
    found.sum().backward()
    assert logits.grad.isfinite().all() and not logits.grad[:, slots].any()


def test_replay_is_named_when_there_is_some(model, data, tmp_path, monkeypatch):
    seen = []
    real = kept_module.self_distillation_targets
    monkeypatch.setattr(
        kept_module, "self_distillation_targets", lambda *given: seen.append(given[-2].tolist()) or real(*given)
    )
    quick = [
        "joint.loop.steps=2",
        "joint.loop.batch_size=4",
        "joint.loop.num_workers=0",
        "rank=2",
        "samples=0",
        "parts=[llm]",
    ]
    finetune.finetune(model, data, tmp_path / "alone", finetune.load_config(quick))
    assert not seen, "a model other than nano replays nothing"
    finetune.finetune(model, data, tmp_path / "world", finetune.load_config([*quick, "replay=world"]))
    assert len(seen) == 4 and all(len(rows) == 4 for rows in seen) and sum(map(sum, seen)) > 0


def test_of_a_long_conversation_two_drawings_stand_for_all(model):
    """One time and noise each, weighted so that the conversation counts as much as with all of them."""
    batch = Mixture([(WorldSource(("story",)), 1.0)], model.encoder, 3, 1, pool=1)(0)
    rows = batch.stream.drawing_row.tolist()
    assert min(Counter(rows).values()) >= 3
    kept = torch.tensor([row != 2 for row in rows])
    chance = distilled_choices(STAGE, batch, 0, 0, kept)
    for row in range(3):
        counts = [count for count, of in zip(chance.counts, rows, strict=True) if of == row]
        assert sorted(counts, reverse=True) == ([1] * 2 + [0] * (len(counts) - 2) if row < 2 else [2] * len(counts))
    assert sum(chance.weights[drawing] for drawing, _ in chance.samples) == pytest.approx(len(rows))
    chosen = {distilled_choices(STAGE, batch, seed, 0, kept).samples[0][0] for seed in range(20)}
    assert len(chosen) > 1, "others at another step"
    assert random_choices(STAGE, batch, 0, 0).samples == [(d, n) for d in range(len(rows)) for n in range(2)]
