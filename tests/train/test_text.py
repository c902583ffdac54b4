"""Text alone: packed conversations have the losses that they have one by one, and nothing of a picture is made."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers import make_limner
from limner.mllm.encoding import IGNORE_INDEX
from limner.train.datasets.mixture import Mixture, SceneImage, WorldSource, load_sources
from limner.train.finetune import load_config
from limner.train.loading import PooledBatches
from limner.train.loop import LoopConfig, with_shared_totals
from limner.train.objective import JointObjective, LanguageObjective
from limner.train.recipe import DEFAULT_STAGES, load_recipe
from limner.train.stages import joint as joint_stage
from limner.train.stages.joint import run_language
from limner.train.stages.joint_options import JointStage, LanguageStage
from limner.train.stages.text import TextStage, run_text
from limner.train.text_batches import MixedBatches, TextBatches, pack, packed, shows_picture, text_alone
from limner.train.text_objective import MixedObjective, TextObjective
from limner.train.trainable import TrainableModel


@pytest.fixture
def no_rendering(monkeypatch):
    def fail(self):
        raise AssertionError("a picture was drawn")

    monkeypatch.setattr(SceneImage, "open", fail)


def world_batches(model, size=6, seed=0, kinds=""):
    sources = load_sources((f"world{kinds}",), model.encoder, 10**9, 1.0)
    return TextBatches(sources, model.encoder, size, seed, 256)


# transformers counts a window in columns, which are fewer than positions around a picture
@pytest.mark.parametrize("backbone, kinds", [("qwen3", ("draw", "story")), ("gemma3_text", ("small_talk",))])
def test_packed_conversations_have_the_losses_that_transformers_gives_each_alone(backbone, kinds, no_rendering):
    model = make_limner(backbone=backbone)
    source = WorldSource(kinds)
    told = [text_alone(model.encoder, source.sample(3, place)) for place in range(5)]
    batch = packed(told, model.mllm.vocabulary.pad, 2048)
    assert batch.input_ids.shape[0] < len(told), "some share a row"
    sums, count = 0.0, 0
    for ids, labels, positions in told:
        logits = model.mllm.llm(torch.tensor([ids]), position_ids=torch.tensor([positions])).logits[0, :-1].float()
        logits[:, model.mllm.slot_ids] = -torch.inf
        target = torch.tensor(labels[1:])
        sums += F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="sum")
        count += int((target != IGNORE_INDEX).sum())
    assert batch.counts() == (count, 0)
    trainable = TrainableModel(model.mllm, None)
    assert TextObjective(trainable)(batch, 0)["loss"].item() == pytest.approx((sums / count).item(), rel=1e-5)


def test_what_stands_around_a_picture_stays_with_its_place_and_its_label(no_rendering):
    model = make_limner()
    vocabulary, config = model.mllm.vocabulary, model.config
    (messages,) = (m for m in [WorldSource(("draw",)).sample(1, 0)])
    ids, labels, positions = text_alone(model.encoder, messages)
    boi = ids.index(vocabulary.boi)
    assert labels[boi] == vocabulary.boi and ids[boi + 1] == vocabulary.eoi
    assert positions[boi + 1] - positions[boi] == config.image_tokens + 1
    assert not set(ids) & set(vocabulary.slots)


def test_a_batch_is_of_its_number_alone_and_has_no_picture_that_a_user_shows():
    model = make_limner()
    batches = world_batches(model)
    told = [batches.told(source, place) for step in range(20) for source, place in batches.dealt(step)]
    assert len(told) == 120 and not any(map(shows_picture, told))
    assert any(shows_picture(WorldSource().sample(0, place)) for place in range(120)), "the world shows some"
    assert torch.equal(batches(7).input_ids, world_batches(model)(7).input_ids)
    assert not torch.equal(batches(7).input_ids[:1, :64], batches(8).input_ids[:1, :64])
    with pytest.raises(ValueError, match="a user shows a picture; none is text alone"):
        world_batches(model, kinds="/describe")(0)


def test_processes_share_a_batch(monkeypatch):
    model = make_limner()
    whole = world_batches(model)(3).counts()[0]
    monkeypatch.setenv("WORLD_SIZE", "2")
    parts = []
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        parts.append(world_batches(model)(3).counts()[0])
    assert sum(parts) == whole and all(parts)


def test_rows_are_filled():
    lengths = [10, 90, 40, 60, 30, 70, 100, 250]
    rows = pack(lengths, 100)
    assert sorted(index for row in rows for index in row) == list(range(8))
    assert sorted(sum(lengths[i] for i in row) for row in rows) == [100, 100, 100, 100, 250]


def test_the_stage_trains_the_backbone_alone_and_measures_what_it_never_learns_from(tmp_path, monkeypatch):
    monkeypatch.setattr("limner.train.stages.text.VALIDATION_CONVERSATIONS", 4)
    model = make_limner()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    loop = LoopConfig(steps=4, batch_size=4, num_workers=0, sample_every=2, warmup_steps=1)
    run_text(TextStage(loop=loop), model, 1, tmp_path, torch.device("cpu"), torch.float32)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("mllm.llm.") for name in changed)
    lines = (tmp_path / "validation.jsonl").read_text().splitlines()
    assert len(lines) == 2 and "world-validation" in lines[0]
    queries = model.mllm.queries.weight.clone()
    further = LanguageStage(data=("world/draw",), loop=replace(loop, steps=1, sample_every=0))
    run_language(further, model, 1, tmp_path / "language", torch.device("cpu"), torch.float32)
    assert not torch.equal(model.mllm.queries.weight, queries), "a later stage trains the rest again"
    further = replace(further, loop=replace(loop, steps=1, sample_every=1), word_dropout=0.5)
    run_language(further, model, 1, tmp_path / "measured", torch.device("cpu"), torch.float32)
    assert {"step", "loss", "language", "features"} == set(
        json.loads((tmp_path / "measured/validation.jsonl").read_text())
    )
    with pytest.raises(ValueError, match=r"phrasings was 0\.35, now 0\.9"):
        run_text(TextStage(loop=loop, phrasings=0.9), make_limner(), 1, tmp_path, torch.device("cpu"), torch.float32)


def test_a_recipe_has_it_before_the_language_stage():
    assert DEFAULT_STAGES.index("text") + 1 == DEFAULT_STAGES.index("language")
    assert load_recipe("nano").text.loop.optimizer == "muon"
    with pytest.raises(ValueError, match="text: row_tokens is 0"):
        load_recipe("nano", ["text.row_tokens=0"])


def test_text_beside_a_batch_adds_its_tokens_to_the_language_loss_alone():
    model = make_limner()
    trainable = TrainableModel(model.mllm, model.detokenizer)
    stage = JointStage(language_weight=3.0)
    joint = JointObjective(trainable, stage, 0)
    sources = load_sources(("world/draw",), model.encoder, 10**9, 1.0)
    batches = MixedBatches(Mixture(sources, model.encoder, 2, 0, pool=2), world_batches(model, size=3))
    batch = batches(1)
    assert isinstance(batches, PooledBatches) and torch.equal(batches(1).text.input_ids, batch.text.input_ids)
    alone, text = joint(batch.joint, 1), TextObjective(trainable)(batch.text, 1)["loss"]
    both = MixedObjective(joint, 3.0)(batch, 1)
    (a, drawings), (b, _) = batch.joint.counts(), batch.text.counts()
    assert batch.counts() == (a + b, drawings)
    expected = (alone["language"] * a + text * b) / (a + b)
    assert both["language"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert both["flow"].item() == pytest.approx(alone["flow"].item(), rel=1e-5)
    others = alone["loss"] - 3 * alone["language"]
    assert both["loss"].item() == pytest.approx((others + 3 * expected).item(), rel=1e-5)
    accumulated = with_shared_totals([(0, batch), (1, batches(0))])
    assert (
        accumulated[0][1].counts()
        == accumulated[1][1].counts()
        == (
            batch.counts()[0] + batches(0).counts()[0],
            drawings + batches(0).counts()[1],
        )
    )


def test_the_language_stage_takes_text_beside_its_batches(tmp_path):
    model = make_limner()
    loop = LoopConfig(steps=2, batch_size=2, num_workers=0, sample_every=2, warmup_steps=1)
    stage = LanguageStage(data=("world/describe",), text_batch_size=3, feature_weight=0.0, loop=loop)
    trainable = TrainableModel(model.mllm, None)
    batches = joint_stage.with_text(model, stage, 1, joint_stage.make_mixture(model, stage, 1))
    batch, objective = batches(0), LanguageObjective(trainable, stage)
    alone, text = objective(batch.joint, 1)["language"], TextObjective(trainable)(batch.text, 1)["loss"]
    a, b = batch.joint.counts()[0], batch.text.counts()[0]
    both = MixedObjective(objective, 1.0)(batch, 1)
    assert both["loss"].item() == pytest.approx(((alone * a + text * b) / (a + b)).item(), rel=1e-5)
    joint_stage.run_language(stage, model, 1, tmp_path, torch.device("cpu"), torch.float32)
    assert len(json.loads((tmp_path / "settings.json").read_text())["data"]) == 2
    with pytest.raises(ValueError, match="text_batch_size is -1"):
        LanguageStage(text_batch_size=-1)


def test_the_joint_stage_takes_text_beside_its_batches_and_counts_what_the_queries_carry(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(joint_stage.Judge, "from_pretrained", lambda path: f"the judge of {path}")
    monkeypatch.setattr(joint_stage, "queries_and_both", lambda *given: seen.append(given[1:]) or (0.5, 0.75))
    loop = LoopConfig(steps=2, batch_size=2, num_workers=0, sample_every=2, warmup_steps=1)
    stage = JointStage(data=("world/draw",), text_batch_size=3, judge="examiner", judged_drawings=6, loop=loop)
    stage = replace(stage, sample_prompts=("a cat",))
    joint_stage.run_joint(stage, make_limner(), 1, tmp_path, torch.device("cpu"), torch.float32)
    assert json.loads((tmp_path / "sources.jsonl").read_text()) == {"step": 2, "queries": 0.5, "both": 0.75}
    assert seen == [("the judge of examiner", 6, joint_stage.JUDGED_STEPS)]
    settings = json.loads((tmp_path / "settings.json").read_text())
    assert len(settings["data"]) == 2 and "judge" not in settings["stage"]
    with pytest.raises(ValueError, match="detokenizer: text_batch_size has no effect"):
        load_recipe("tiny", ["detokenizer.text_batch_size=4"])
    with pytest.raises(ValueError, match=r"joint\.text_batch_size has no effect here"):
        load_config(["joint.text_batch_size=4"])


def test_plans_are_read_while_it_trains(tmp_path):
    """A model that says nothing sensible has no plan right; one that says what was meant has all."""
    model = make_limner()
    loop = LoopConfig(steps=1, batch_size=2, num_workers=0, sample_every=1, warmup_steps=1)
    stage = TextStage(data=("world/small_talk",), validation=(), plans=1, loop=loop)
    run_text(stage, model, 1, tmp_path, torch.device("cpu"), torch.float32)
    line = json.loads((tmp_path / "plans.jsonl").read_text())
    assert line.pop("step") == 1 and set(line.values()) == {0.0} and len(line) == 3
