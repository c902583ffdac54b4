"""Recipes, joint batches and their objectives: branches get their pictures, what is frozen stays."""

import operator
from dataclasses import replace
from functools import reduce

import pytest
import torch

from helpers import make_limner, picture
from limner.mllm.views import normalise
from limner.train.data import joint_batch
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.distill import group_by_shape
from limner.train.loop import LoopConfig, fit, validation_loss
from limner.train.objective import DetokenizerObjective, JointObjective, LanguageObjective
from limner.train.recipe import load_recipe, select_stages
from limner.train.stages.joint import make_mixture, run_joint, validation_batch
from limner.train.stages.joint_options import JointStage, LanguageStage
from limner.train.trainable import TrainableModel, compile_blocks, freeze_parameters, gradient_checkpointing
from limner.world import talk


def test_recipes_are_checked_key_by_key():
    assert load_recipe("nano").mmdit.adaln == "low_rank"
    assert load_recipe("tiny", ["joint.loop.steps=7"]).joint.loop.steps == 7
    with pytest.raises(ValueError, match=r"unknown key 'stepz' in joint\.loop"):
        load_recipe("tiny", ["joint.loop.stepz=7"])
    with pytest.raises(ValueError, match=r"joint\.loop\.steps must be of type int"):
        load_recipe("tiny", ["joint.loop.steps=many"])
    with pytest.raises(ValueError, match=r"steps=\$\{steps\}: Interpolation key 'steps' not found"):
        load_recipe("tiny", ["joint.loop.steps=${steps}"])
    with pytest.raises(
        ValueError, match="no recipe 'gigantic'; there are nano, nano_queries, nano_tokens, released, tiny, or"
    ):
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
@pytest.mark.parametrize("paints", [True, False])
def test_compiled_blocks_give_the_same_losses_and_gradients(paints):
    asked = {"role": "user", "content": [{"type": "image", "image": picture(1)}, {"type": "text", "text": "x"}]}
    drawn = {"role": "assistant", "content": [{"type": "image", "image": picture(2)}]}
    made = joint_batch([[asked, drawn]] * 3, make_limner(prompt_tokens=6).encoder)
    found = []
    for compiled in (False, True):
        model = make_limner(prompt_tokens=6)
        trainable = TrainableModel(model.mllm, model.detokenizer if paints else None)
        if compiled:
            compile_blocks(trainable)
        objective = (
            JointObjective(trainable, JointStage(), 0) if paints else LanguageObjective(trainable, LanguageStage())
        )
        loss = objective(made, 0)["loss"]
        loss.backward()
        found.append((loss.item(), [p.grad for p in trainable.parameters() if p.grad is not None]))
    (eager, gradients), (loss, own) = found
    assert loss == pytest.approx(eager, rel=1e-5) and len(own) == len(gradients) > 20
    for a, b in zip(gradients, own, strict=True):
        assert (a - b).abs().max() <= 1e-4 * max(1.0, a.abs().max())
