"""Text alone: packed conversations have the losses that they have one by one, and nothing of a picture is made."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from helpers import make_limner
from limner.mllm.encoding import IGNORE_INDEX
from limner.train.datasets.mixture import SceneImage, WorldSource, load_sources
from limner.train.loop import LoopConfig
from limner.train.recipe import DEFAULT_STAGES, load_recipe
from limner.train.stages.joint import run_language
from limner.train.stages.joint_options import LanguageStage
from limner.train.stages.text import TextObjective, TextStage, run_text
from limner.train.text_batches import TextBatches, pack, packed, shows_picture, text_alone
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
    told = [batches.told(source, place) for step in range(20) for source, place in batches.places(step)]
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


def test_the_stage_trains_the_backbone_alone_and_measures_what_it_never_learns_from(tmp_path):
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
    with pytest.raises(ValueError, match=r"phrasings was 0\.35, now 0\.9"):
        run_text(TextStage(loop=loop, phrasings=0.9), make_limner(), 1, tmp_path, torch.device("cpu"), torch.float32)


def test_a_recipe_has_it_before_the_language_stage():
    assert DEFAULT_STAGES.index("text") + 1 == DEFAULT_STAGES.index("language")
    assert load_recipe("nano").text.loop.optimizer == "muon"
    with pytest.raises(ValueError, match="text: row_tokens is 0"):
        load_recipe("nano", ["text.row_tokens=0"])
