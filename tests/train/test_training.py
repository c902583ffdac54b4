"""Optimizer, loop, data: resuming is exact, bad batches never reach the weights, branches get their pictures."""

import multiprocessing
import operator
import signal
import subprocess
from dataclasses import replace
from functools import partial, reduce

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers, register_tracker_class
from torch import nn

from helpers import make_limner, picture
from limner.mllm.views import normalise
from limner.train import loop, tracking
from limner.train.data import joint_batch
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.distill import group_by_shape
from limner.train.interrupts import Interrupted
from limner.train.loop import LoopConfig, fit, validation_loss
from limner.train.objective import DetokenizerObjective, JointObjective
from limner.train.recipe import load_recipe, select_stages
from limner.train.stages.joint import make_mixture, run_joint, validation_batch
from limner.train.stages.joint_options import JointStage
from limner.train.trainable import TrainableModel, compile_blocks, freeze_parameters, gradient_checkpointing
from limner.world import talk


def problem():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1)).to(torch.bfloat16)


def batch(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randn(16, 4, generator=generator)


def losses(model, x, step):
    loss = (model(x.to(torch.bfloat16)).float() - x.sum(1, keepdim=True)).square().mean()
    return {"loss": loss}


def run(folder, steps=12, before=None, kind="adamw"):
    model = problem()
    config = LoopConfig(
        steps=steps, learning_rate=1e-2, warmup_steps=2, save_every=4, num_workers=0, ema_decay=0.9, optimizer=kind
    )
    fit("test", model, batch, before or partial(losses, model), config, folder)
    return model


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_run_that_was_stopped_goes_on_to_the_same_weights(workers, tmp_path):
    whole = run(tmp_path / "whole")
    model = problem()
    config = LoopConfig(steps=12, learning_rate=1e-2, warmup_steps=2, save_every=4, num_workers=workers, ema_decay=0.9)

    def interrupted(x, step):
        if step == 6:
            for worker in multiprocessing.active_children():  # `timeout` and schedulers stop all processes of a run
                subprocess.run(["kill", str(worker.pid)], check=True)  # from another process: its parent may end it
                worker.join(0.2)
            signal.raise_signal(signal.SIGTERM)
        return losses(model, x, step)

    with pytest.raises(Interrupted, match="step 7 of 12"):
        fit("test", model, batch, interrupted, config, tmp_path / "cut")
    assert same(run(tmp_path / "cut"), whole)


def test_training_learns_and_ends_with_the_average(tmp_path):
    before = losses(problem(), batch(99), 0)["loss"]
    after = losses(run(tmp_path, steps=200), batch(99), 0)["loss"]
    assert after < 0.2 * before


def test_figures_go_to_tensorboard_or_to_any_tracker_of_accelerate(tmp_path):
    run(tmp_path / "usual", steps=1)
    assert list((tmp_path / "usual" / "tensorboard").rglob("events.out.*"))
    kept = []

    class Kept(GeneralTracker):
        name, requires_logging_directory, tracker = "kept", False, None

        def __init__(self, run_name):
            super().__init__()

        def store_init_configuration(self, values):
            raise AssertionError("nobody asked")

        def log(self, values, step=None):
            kept.append((step, sorted(values)))

        def finish(self):
            kept.append("finished")

    register_tracker_class(Kept)
    model = problem()
    config = LoopConfig(steps=5, log_every=2, num_workers=0, tracker="kept")
    fit("test", model, batch, partial(losses, model), config, tmp_path / "own")
    assert kept == [(step, ["test/gradient_norm", "test/loss"]) for step in (0, 2, 4)] + ["finished"]
    with pytest.raises(ValueError, match=r"tracker is .paper.; accelerate has .*tensorboard"):
        tracking.start_tracker("paper", tmp_path)
    missing = next(kind for kind in LOGGER_TYPE_TO_CLASS if kind not in {"kept", *map(str, get_available_trackers())})
    with pytest.raises(ValueError, match=f"tracker {missing}: its package is not installed"):
        tracking.start_tracker(missing, tmp_path)


def test_batches_without_a_finite_gradient_change_nothing(tmp_path):
    model = problem()
    config = LoopConfig(steps=3, num_workers=0, max_bad_batches=5)
    start = [p.clone() for p in model.parameters()]

    def broken(x, step):
        return {"loss": losses(model, x, step)["loss"] * float("nan")}

    with pytest.raises(ValueError, match="nothing was learned: the gradient was not finite in 3 of 3 steps"):
        fit("test", model, batch, broken, config, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), start, strict=True))
    with pytest.raises(FloatingPointError, match="3 batches in a row"):
        fit("test", model, batch, broken, LoopConfig(steps=9, num_workers=0, max_bad_batches=2), tmp_path / "b")


def test_norms_that_are_looked_at_later_are_counted_all_the_same(tmp_path, monkeypatch, capsys):
    """As on a GPU, which the host waits for every few steps only."""
    real = loop.Trainer.__init__

    def made(trainer, *given):
        real(trainer, *given)
        trainer.check_every = 4

    monkeypatch.setattr(loop.Trainer, "__init__", made)
    model = problem()

    def broken(x, step):
        return {"loss": losses(model, x, step)["loss"] * (float("nan") if step in (1, 2, 5, 6, 7) else 1)}

    fit("test", model, batch, broken, LoopConfig(steps=9, num_workers=0, log_every=0, max_bad_batches=3), tmp_path)
    assert "5 of 9 steps were skipped" in capsys.readouterr().out and all(
        p.isfinite().all() for p in model.parameters()
    )
    with pytest.raises(FloatingPointError, match="3 batches in a row"):
        config = LoopConfig(steps=9, num_workers=0, log_every=0, max_bad_batches=2)
        fit("test", model, batch, broken, config, tmp_path / "b")


def test_recipes_are_checked_key_by_key():
    assert load_recipe("nano").mmdit.adaln == "low_rank"
    assert load_recipe("tiny", ["joint.loop.steps=7"]).joint.loop.steps == 7
    with pytest.raises(ValueError, match=r"unknown key 'stepz' in joint\.loop"):
        load_recipe("tiny", ["joint.loop.stepz=7"])
    with pytest.raises(ValueError, match=r"joint\.loop\.steps must be of type int"):
        load_recipe("tiny", ["joint.loop.steps=many"])
    with pytest.raises(ValueError, match=r"steps=\$\{steps\}: Interpolation key 'steps' not found"):
        load_recipe("tiny", ["joint.loop.steps=${steps}"])
    with pytest.raises(ValueError, match="no recipe 'gigantic'; there are nano, released, tiny, or the path"):
        load_recipe("gigantic")


def test_a_stage_keeps_its_own_defaults_beside_what_a_recipe_or_an_override_says():
    plain = load_recipe("nano")
    for recipe in (load_recipe("nano", ["align.data=[talks]", "align.loop.steps=3"]), load_recipe("released")):
        assert recipe.align.data != plain.align.data
        assert recipe.align.train == plain.align.train != recipe.joint.train and recipe.align.language_weight == 0
    assert load_recipe("nano", ["detokenizer.flow_samples=1"]).detokenizer.train == ("detokenizer",)


def test_stages_are_those_asked_for_the_recipes_own_or_nanos():
    released, nano = load_recipe("released"), load_recipe("nano")
    assert select_stages(released, None) == ("align", "joint", "sft") and select_stages(released, ("sft",)) == ("sft",)
    assert select_stages(nano, None)[0] == "tokenizer" and select_stages(nano, None)[-1] == "student"
    assert select_stages(load_recipe("nano", ["warm_start=x"]), None) == (
        "text",
        "language",
        "joint",
        "decoder",
        "student",
    )
    with pytest.raises(ValueError, match="brings its own tokenizer"):
        select_stages(load_recipe("released", ["stages=[tokenizer,joint]"]), None)
    for recipe, asked in ((load_recipe("nano", ["stages=[joint,paint]"]), None), (nano, ("paint",))):
        with pytest.raises(ValueError, match="no stage 'paint'; there are tokenizer"):
            select_stages(recipe, asked)


def test_drawings_are_paired_with_their_pictures_and_references():
    model = make_limner(shapes=((32, 32), (16, 32)))
    talk = [
        {"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "x"}]},
        {"role": "assistant", "content": [{"type": "image", "image": picture(2, (16, 32))}]},
        {"role": "user", "content": "again"},
        {"role": "assistant", "content": [{"type": "image", "image": picture(3)}]},
    ]
    made = joint_batch([talk, talk[1:2]], model.encoder)
    find = {p.tobytes(): i for i, p in enumerate([picture(1), picture(2, (16, 32)), picture(3)], 1)}

    def which(place):
        return find[made.pictures[place[0]][place[1]].numpy().tobytes()]

    assert [which(p) for p in made.target] == [2, 3, 2]
    assert [[which(p) for p in row] for row in made.references] == [[1], [2, 1], []]
    assert len(made.target) == len(made.target_views) == len(made.stream.drawing_row)
    assert (
        len(made.view_index) == len(made.stream.view_positions) == 4
    )  # the vision tower looks once at a picture, read and to be drawn
    model.encoder.config.drawn_images = "queries"
    as_queries = joint_batch([talk, talk[1:2]], model.encoder)
    assert len(as_queries.stream.view_positions) == 1 and len(as_queries.view_index) == 4
    for batch in (made, as_queries):
        drawn = [normalise(p, model.config) for p in (picture(2, (16, 32)), picture(3), picture(2, (16, 32)))]
        assert (batch.views()[batch.target_views] - torch.stack(drawn)).abs().max() < 2.01 * 2 / 255
    latents = [torch.arange(len(p)).view(-1, 1, 1, 1).float() for p in made.pictures]
    groups = group_by_shape(made, latents, [(0, 0), (0, 1), (1, 0), (2, 0)], dropped={1})
    assert sorted(reduce(operator.iadd, (g.samples for g in groups), [])) == [(0, 0), (0, 1), (1, 0), (2, 0)]
    assert all(len({tuple(map(len, [r])) for r in g.references}) == 1 for g in groups)


def test_what_is_measured_has_some_of_every_source_or_is_a_set_of_its_own(data, monkeypatch):
    model = make_limner()
    stage = JointStage(data=("world/draw:0.98", "world/describe:0.02"), loop=LoopConfig(batch_size=4))
    batches = make_mixture(model, stage, 1)
    batch = validation_batch(model, stage, batches, 2)
    assert len(batch.sources) == 8 and set(batch.sources) == {0, 1}
    objective = JointObjective(TrainableModel(model.mllm, model.detokenizer), stage, 0)

    def measured(batch):
        return {name: value.item() for name, value in objective(batch, 0).items()}

    values, again = measured(batch), measured(batch)
    assert validation_loss(values) == values["flow"] > 0 and values == again
    own = validation_batch(model, replace(stage, validation=(str(data),)), batches, 2)
    assert len(own.sources) == 8 and "zorp" in model.tokenizer.decode(own.stream.input_ids[0])
    monkeypatch.setattr(talk, "EARLIER_SHARE", 0)
    told = validation_batch(model, replace(stage, validation=("world/describe",)), batches, 2)
    values = measured(told)
    assert validation_loss(values) == values["loss"] and "flow" not in values, "where nothing is drawn"


def test_flow_gradients_reach_the_queries_and_spare_the_frozen():
    model = make_limner(prompt_tokens=6, shapes=((128, 128), (96, 160), (160, 96)))
    model.detokenizer.mmdit.config.position_table = 32
    made = Mixture([(WorldSource(), 1.0)], model.encoder, 6, 0, pool=1)(0)
    trainable = TrainableModel(model.mllm, model.detokenizer, align=True)
    values = JointObjective(trainable, JointStage(align_weight=0.5, align_block=0), 0)(made, 0)
    assert set(values) == {"loss", "language", "features", "flow", "align"}
    values["flow"].backward()
    for name in ("mllm.queries.weight", "mllm.output_resampler.query", "mllm.llm.model.layers.0.mlp.up_proj.weight"):
        gradient = dict(model.named_parameters())[name].grad
        assert gradient is not None and gradient.abs().sum() > 0, name
    assert all(p.grad is None for p in model.mllm.vision_tower.parameters())
    assert all(p.grad is None for p in model.detokenizer.autoencoder.parameters())
    weights = {"language": 2.0, "features": 3.0, "flow": 5.0, "align": 7.0}
    options = {"feature_weight" if name == "features" else f"{name}_weight": w for name, w in weights.items()}
    weighted = JointObjective(trainable, JointStage(**options, align_block=0), 0)(made, 0)
    total = sum(weight * float(weighted[name].detach()) for name, weight in weights.items())
    assert float(weighted["loss"].detach()) == pytest.approx(total, rel=1e-5)
    again = JointObjective(trainable, JointStage(align_weight=0.5, align_block=0), 0)(made, 0)
    assert torch.equal(again["flow"], values["flow"]), "noise, times and dropout come from (seed, step)"


def test_a_share_of_the_drawings_learns_from_the_queries_alone():
    model = drawing_model()
    trainable = TrainableModel(model.mllm, model.detokenizer)
    for share in (1.0, 0.0):
        model.zero_grad()
        stage = JointStage(prompt_dropout=share, context_dropout=0.0)
        JointObjective(trainable, stage, 0)(world(model), 0)["flow"].backward()
        heard = model.detokenizer.adapter.prompt_proj.weight.grad.abs().sum()
        assert (heard == 0) == bool(share) and model.mllm.queries.weight.grad.abs().sum() > 0


def test_accumulated_batches_are_one_large_batch(tmp_path):
    """Two of 16 against one of 32, in fp32, and a resumed run goes on at the right batch."""

    def train(folder, accumulate, steps=6):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)

        def make(number):
            if accumulate == 2:
                return batch(number)
            return torch.cat([batch(2 * number), batch(2 * number + 1)])

        def loss(x, step):
            return {"loss": (model(x) - x.sum(1, keepdim=True)).square().mean()}

        config = LoopConfig(
            steps=steps,
            learning_rate=1e-2,
            warmup_steps=1,
            decay_ratio=0.0,
            num_workers=0,
            gradient_accumulation_steps=accumulate,
        )
        fit("test", model, make, loss, config, folder)
        return model

    whole = train(tmp_path / "one", 1)
    train(tmp_path / "two", 2, steps=3)
    for a, b in zip(whole.parameters(), train(tmp_path / "two", 2).parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


def test_a_bad_batch_is_named(tmp_path, capsys):
    model = problem()

    class Named:
        def __call__(self, step):
            return batch(step)

        def names(self, step):
            return [f"cat-{step}.png"]

    def broken(x, step):
        values = losses(model, x, step)
        return {"loss": values["loss"] * float("nan")} if step == 2 else values

    fit("test", model, Named(), broken, LoopConfig(steps=4, num_workers=0), tmp_path)
    assert "step 2: gradient not finite, batch skipped (1 so far): cat-2.png" in capsys.readouterr().out
    assert all(p.isfinite().all() for p in model.parameters())


def world(model, count=4):
    return Mixture([(WorldSource(), 1.0)], model.encoder, count, 0, pool=1)(0)


def drawing_model():
    model = make_limner(prompt_tokens=6, shapes=((128, 128), (96, 160), (160, 96)))
    model.detokenizer.mmdit.config.position_table = 32
    return model


def test_what_is_frozen_is_told_and_a_name_without_a_parameter_refused():
    model = drawing_model()
    trainable = TrainableModel(model.mllm, model.detokenizer)
    told = freeze_parameters(trainable, ("mllm.queries", "detokenizer.adapter"))
    learns, rests = told.splitlines()
    assert "mllm.queries" in learns and "detokenizer.adapter" in learns and "llm" not in learns.replace("mllm", "")
    assert "mllm.llm" in rests and "detokenizer.mmdit" in rests and "mllm.vision_tower" in rests
    JointObjective(trainable, JointStage(), 0)(world(model), 0)["loss"].backward()
    got = {n for n, p in model.named_parameters() if p.grad is not None}
    assert got and all(n.startswith(("mllm.queries.", "detokenizer.adapter.")) for n in got)
    with pytest.raises(ValueError, match=r"no parameter's name begins with 'mllm\.querys'; parts are .*mllm\.queries"):
        freeze_parameters(trainable, ("mllm.querys",))
    with pytest.raises(ValueError, match=r"begins with 'mllm\.q'"):
        freeze_parameters(trainable, ("mllm.q",))


def test_a_stage_trains_what_an_earlier_one_froze(tmp_path):
    model = make_limner()
    loop = LoopConfig(steps=1, batch_size=2, num_workers=0, sample_every=0, warmup_steps=1)
    device, changed = torch.device("cpu"), []
    for name, train in (("align", ("mllm.input_resampler",)), ("joint", ("mllm", "detokenizer"))):
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        stage = JointStage(data=("world/describe",), train=train, loop=loop)
        run_joint(stage, model, 0, tmp_path / name, device, torch.float32, name)
        changed.append({n.split(".")[1] for n, p in model.named_parameters() if not torch.equal(p, before[n])})
    assert "llm" not in changed[0] and "llm" in changed[1] and "vision_tower" not in changed[1]


def test_the_detokenizer_learns_from_features_alone():
    model = drawing_model()
    trainable = TrainableModel(model.mllm, model.detokenizer, align=True)
    values = DetokenizerObjective(trainable, JointStage(align_weight=0.5, align_block=0), 0)(world(model), 0)
    assert set(values) == {"loss", "flow", "align"}
    values["loss"].backward()
    assert all(p.grad is None for p in model.mllm.parameters())
    assert model.detokenizer.adapter.resampler.query.grad.abs().sum() > 0


def test_a_batch_of_words_teaches_drawing_nothing_and_stops_no_run(tmp_path):
    model = drawing_model()
    trainable = TrainableModel(model.mllm, model.detokenizer)
    freeze_parameters(trainable, ("detokenizer.mmdit",))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    words = Mixture([(WorldSource(("small_talk",)), 1.0)], model.encoder, 2, 5, pool=1)
    without = [k for k in range(20) if not len(words(k).target)][:2]
    config = LoopConfig(steps=2, warmup_steps=0, num_workers=0, weight_decay=0.0)
    for form in (DetokenizerObjective, JointObjective):
        objective = form(trainable, JointStage(), 0)
        with pytest.raises(
            ValueError, match="nothing was learned: the gradient was zero in 2 of 2 steps"
        ):  # at the end
            fit("test", trainable, lambda step: words(without[step]), objective, config, tmp_path / form.__name__)
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for again in (False, True):
        model = drawing_model()
        model.mllm.llm.train()
        trainable = TrainableModel(model.mllm, model.detokenizer)
        with gradient_checkpointing(trainable, again):
            JointObjective(trainable, JointStage(), 0)(world(model), 0)["loss"].backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-6, rtol=1e-5, msg=name)


@pytest.mark.slow
def test_compiled_blocks_give_the_same_losses_and_gradients():
    asked = {"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "x"}]}
    drawn = {"role": "assistant", "content": [{"type": "image", "image": picture(2)}]}
    made = joint_batch([[asked, drawn]] * 3, make_limner(prompt_tokens=6).encoder)
    found = []
    for compiled in (False, True):
        model = make_limner(prompt_tokens=6)
        trainable = TrainableModel(model.mllm, model.detokenizer)
        if compiled:
            compile_blocks(trainable)
        loss = JointObjective(trainable, JointStage(), 0)(made, 0)["loss"]
        loss.backward()
        found.append((loss.item(), [p.grad for p in trainable.parameters() if p.grad is not None]))
    (eager, gradients), (loss, own) = found
    assert loss == pytest.approx(eager, rel=1e-5) and len(own) == len(gradients) > 20
    for a, b in zip(gradients, own, strict=True):
        assert (a - b).abs().max() <= 1e-4 * max(1.0, a.abs().max())


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path):
    """Long and short answers, some with pictures: each is divided by what is counted in all of them."""
    model = make_limner()

    def said(question, answer, drawn=()):
        shown = [{"type": "image", "image": picture(seed)} for seed in drawn]
        return [
            {"role": "user", "content": [{"type": "text", "text": question}]},
            {"role": "assistant", "content": [{"type": "text", "text": answer}, *shown]},
        ]

    talks = [
        said("Is it day?", "Yes."),
        said("Tell me.", "The sun is round and far away, over sea and hills."),
        said("draw", "Here", (1, 2)),
        said("draw one", "It is here", (3,)),
    ]

    def gradients(batches):
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        trainable = TrainableModel(model.mllm, model.detokenizer)
        places = iter(range(4))
        made = [joint_batch(batch, model.encoder, [next(places) for _ in batch]) for batch in batches]
        config = LoopConfig(
            steps=1,
            gradient_accumulation_steps=len(batches),
            num_workers=0,
            max_grad_norm=1e9,
            learning_rate=1e-9,
            warmup_steps=1,
        )
        fixed = JointObjective(trainable, JointStage(), 0)
        optimizer = fit(
            "x", trainable, lambda n: made[n], lambda b, _: fixed(b, 0), config, tmp_path / str(len(batches))
        )
        (adam,) = optimizer.optimizers
        found = [adam.state[master]["exp_avg"].clone() for master in optimizer.masters.values() if master in adam.state]
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(before[name])
        return torch.cat([value.flatten() for value in found])

    one = gradients([talks])
    for batches in ([talks[:2], talks[2:]], [talks[:1], talks[1:3], talks[3:]]):
        assert (gradients(batches) - one).norm() < 1e-4 * one.norm()
