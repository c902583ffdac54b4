"""The stage that trains a visual tokenizer, and the model that comes of it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from helpers import make_limner, picture
from limner.detokenizer.files import load_module
from limner.mllm.visual_tokens import VisualTokenizer, VisualTokenizerConfig
from limner.mllm.visual_tokens.draft import CodeDraft
from limner.train import picture_features
from limner.train.data import joint_batch
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.loop import LoopConfig
from limner.train.objective import target_features
from limner.train.picture_features import FeatureBatch, KeptFeatures, first_features
from limner.train.picture_shares import PictureShares
from limner.train.stages.visual_tokenizer import (
    FEATURES,
    TokenizerObjective,
    TokenizerTraining,
    VisualTokenizerStage,
    caption_words,
    run_visual_tokenizer,
    tokenizer_config,
)
from limner.train.trainable import TrainableModel
from limner.train.warm_start import renew_queries

TINY = VisualTokenizerConfig(
    num_tokens=4, lengths=(1, 2, 4), levels=(3, 8), width=16, heads=2, encoder_depth=1, decoder_depth=1
)
LOOP = LoopConfig(steps=4, batch_size=6, warmup_steps=1, num_workers=0, save_every=2, sample_every=4, ema_decay=0.5)
STAGE = VisualTokenizerStage(
    tokenizer=TINY,
    data=("world/draw+edit",),
    query_lengths=(2, 4),
    all_tokens_share=0.5,
    validation_pictures=8,
    loop=LOOP,
)
CPU = torch.device("cpu")


def run(folder, stage=STAGE, model=None):
    return run_visual_tokenizer(stage, model or make_limner(), 3, folder, CPU, torch.float32)


def objective(stage, model):
    learned = TokenizerTraining(
        VisualTokenizer(tokenizer_config(stage, model)), model.mllm.width, stage.caption_weight > 0
    )
    trainable = TrainableModel(model.requires_grad_(False).mllm, model.detokenizer)
    return TokenizerObjective(learned, trainable, stage, 3)


def batch(model):
    return Mixture([(WorldSource(("draw", "edit")), 1.0)], model.encoder, 6, 3, pool=1)(0)


@pytest.mark.slow
def test_a_model_gains_a_trained_tokenizer_and_a_cut_run_comes_to_the_same(tmp_path):
    base = make_limner()
    weights = {name: value.clone() for name, value in base.state_dict().items()}
    made = run(tmp_path / "whole", model=base)
    for name, value in weights.items():
        now = made.state_dict()[name]
        assert torch.equal(
            now[: len(value)] if name.endswith(("embed_tokens.weight", "lm_head.weight")) else now, value
        )
    assert made.config.visual_codes == 24 and made.config.query_lengths == (2, 4)
    (line,) = map(json.loads, (tmp_path / "whole/validation.jsonl").read_text().splitlines())
    assert set(line) == {"step", "loss", "cosine_1", "cosine_2", "cosine_4", "codebook_used"}
    assert 0 < line["codebook_used"] <= 1 and line["loss"] < 1
    saved = load_module(VisualTokenizer, VisualTokenizerConfig, tmp_path / "whole/model")
    assert saved.vector_norm.num_batches_tracked == 4
    assert saved.decoder.feature_proj.weight.dtype == base.stored_dtype
    reply = made.generate("draw", images="force", max_images=1, image_mode="tokens", num_inference_steps=1)
    assert reply.images

    constant = replace(STAGE, all_tokens_share=0.0, loop=replace(LOOP, schedule="constant"))
    run(tmp_path / "cut", replace(constant, loop=replace(constant.loop, steps=2)))
    (tmp_path / "cut/settings.json").unlink()  # as if it had been cut: of as many steps
    shutil.rmtree(tmp_path / "cut/model")
    again, whole = run(tmp_path / "cut", constant), run(tmp_path / "constant", constant)
    first, second = (model.mllm.visual_tokenizer.state_dict() for model in (again, whole))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    twice = run(tmp_path / "constant", constant)
    assert all(torch.equal(a, b) for a, b in zip(twice.parameters(), whole.parameters(), strict=True))
    with pytest.raises(ValueError, match="holds a run with other data"):
        run(tmp_path / "constant", replace(constant, caption_weight=0.0, squared_error_weight=0.5))

    taken = run(tmp_path / "nothing", replace(STAGE, pretrained=str(tmp_path / "constant/model")))
    assert not (tmp_path / "nothing").exists()
    assert torch.equal(taken.mllm.visual_tokenizer.encoder.queries, whole.mllm.visual_tokenizer.encoder.queries)
    with pytest.raises(ValueError, match="another vision tower: its feature_tokens is 4, the model's 1"):
        other = make_limner()
        other.config = replace(other.config, feature_tokens=1)
        run(tmp_path / "nothing", replace(STAGE, pretrained=str(tmp_path / "constant/model")), other)


KEPT = replace(
    STAGE,
    tokenizer=replace(TINY, architecture="mlp"),
    pictures=30,
    initial_pictures=20,
    loop=replace(LOOP, batch_size=8),
)


def test_pictures_are_encoded_once_and_a_cut_run_comes_to_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(picture_features, "PICTURES_PER_FILE", 12)
    encoded, real = [], picture_features.target_features

    def count(trainable, batch):
        encoded.append(len(batch.target))
        return real(trainable, batch)

    monkeypatch.setattr(picture_features, "target_features", count)
    whole = run(tmp_path / "whole", KEPT).mllm.visual_tokenizer
    first = sum(encoded)
    assert 30 <= first < 40
    assert not (tmp_path / "whole" / FEATURES).exists(), "they are of no use any more"

    def stop(trainable, batch):
        if sum(encoded) > first + 20:
            raise KeyboardInterrupt
        return count(trainable, batch)

    monkeypatch.setattr(picture_features, "target_features", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", KEPT)
    done = sorted((tmp_path / "cut" / FEATURES).iterdir())
    assert done and not (tmp_path / "cut" / "log.jsonl").exists()
    encoded.clear()
    monkeypatch.setattr(picture_features, "target_features", count)
    again = run(tmp_path / "cut", KEPT).mllm.visual_tokenizer.state_dict()
    assert sum(encoded) < 30, "what was encoded before is not encoded again"
    assert all(torch.equal(value, again[name]) for name, value in whole.state_dict().items())


def test_every_kept_picture_comes_once_an_epoch():
    features = torch.arange(10.0)[:, None, None]
    batches = KeptFeatures(features, 4, seed=3)
    seen = torch.cat([batches(number).features for number in range(5)]).flatten().tolist()
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10)) and seen[:10] != seen[10:]
    assert KeptFeatures(features, 4, seed=4)(0).features.flatten().tolist() != seen[:4]
    assert torch.equal(batches(3).features, KeptFeatures(features, 4, seed=3)(3).features)


def test_without_kept_pictures_it_begins_from_the_first_of_the_data(tmp_path):
    made = run(tmp_path, replace(KEPT, pictures=0)).mllm.visual_tokenizer
    assert made.encoder.mean.abs().sum() > 0 and made.encoder.linear.weight.std() > 0


def test_data_that_hardly_draws_is_not_asked_for_ever():
    model = make_limner()
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    drawn = [*talk, {"role": "user", "content": "draw"}, image_reply()]
    made = [joint_batch([drawn if number < 2 else talk], model.encoder) for number in range(4)]
    trainable = TrainableModel(model.mllm, None)
    assert first_features(trainable, made.__getitem__, 2, 0).shape == (2, 16, 16)
    with pytest.raises(ValueError, match="2 pictures are drawn by the first 3 batches, and 3 are asked for"):
        first_features(trainable, made.__getitem__, 3, 0)


def image_reply():
    return {"role": "assistant", "content": [{"type": "image", "image": picture(1)}]}


def test_codes_that_decode_alike_begin_alike(tmp_path):
    made = run(tmp_path, replace(STAGE, loop=replace(LOOP, steps=1)))
    mllm = made.mllm
    table = mllm.llm.get_input_embeddings().weight
    rows = table[mllm.vocabulary.codes.start : mllm.vocabulary.codes.stop]
    vectors = mllm.visual_tokenizer.quantizer.codes_to_vectors(torch.arange(24))
    near, far = torch.cdist(rows, rows)[vectors[:, 0] == 0], torch.cdist(vectors, vectors)[vectors[:, 0] == 0]
    assert torch.corrcoef(torch.stack([near.flatten(), far.flatten()]))[0, 1] > 0.7
    words = table[: mllm.vocabulary.codes.start]
    assert 0.2 < rows.std() / words.std() < 0.5 and len(rows.unique(dim=0)) == 24
    level = mllm.visual_tokenizer.quantizer.one_hot_digits(torch.arange(24))[
        :, 5
    ].numpy()  # in the middle of the second eight
    told = np.linalg.lstsq(np.c_[rows.detach().double().numpy(), np.ones(24)], level, rcond=1e-5)[0]
    assert np.allclose(np.c_[rows.detach().double().numpy(), np.ones(24)] @ told, level, atol=0.05), (
        "a hidden state can say it"
    )


def test_a_draft_begins_as_sure_as_it_is_right(tmp_path):
    """Alone it tells other pictures' codes better than if it were much surer or less so, or each token were as sure as others."""
    base = make_limner(seed=1)
    stage = replace(KEPT, draft_by_queries=True, loop=replace(LOOP, steps=1))
    made = run(tmp_path, stage, base)
    mllm, sources = made.mllm, [(WorldSource(("draw",)), 1.0)]
    shares = PictureShares(token_share=1.0, token_dropout=0.0)
    given = Mixture(sources, made.encoder, 40, 9, pool=1, shares=shares)(0)
    saved = load_module(VisualTokenizer, VisualTokenizerConfig, tmp_path / "model").state_dict()
    assert all(torch.equal(value, mllm.visual_tokenizer.state_dict()[name]) for name, value in saved.items())
    of_all = CodeDraft(4, 2)  # as sure of each token as of the others
    for parameter, own in zip(of_all.parameters(), mllm.draft.parameters(), strict=True):
        parameter.data = own.data.mean(0).expand_as(own)
    with torch.no_grad():
        output = mllm(given.stream, mllm.vision_tower(given.views()))
        drafted = mllm.visual_tokenizer.image_vectors(output.draft_features)
        vectors = mllm.visual_tokenizer.quantizer.codes_to_vectors(torch.arange(24))

        def error(draft, scale=1.0):
            logits = (scale * draft(drafted, vectors)).transpose(1, 2)
            return float(F.cross_entropy(logits, output.codes))

        own = error(mllm.draft)
        assert own < min(error(mllm.draft, 0.1), error(mllm.draft, 3.0), error(of_all)) and own < np.log(24)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tokenizer": TINY}, "draft_by_queries needs a visual tokenizer that encodes image features"),
        (
            {"seen_images": "tokens", "query_lengths": ()},
            "draft_by_queries is for models that draw by visual tokens and see",
        ),
    ],
)
def test_a_draft_that_cannot_be_is_refused_before_anything_is_trained(tmp_path, changes, said):
    with pytest.raises(ValueError, match=said):
        run(tmp_path / "run", replace(KEPT, draft_by_queries=True, **changes))
    assert not (tmp_path / "run").exists()


def test_a_picture_of_tokens_begins_as_one_of_queries_does(tmp_path):
    mllm = run(tmp_path, replace(KEPT, loop=replace(LOOP, steps=1))).mllm
    for table in (mllm.llm.get_input_embeddings().weight, mllm.llm.get_output_embeddings().weight):
        assert torch.equal(table[mllm.vocabulary.vis], table[mllm.vocabulary.boi])


def test_every_loss_teaches_the_tokenizer_alone():
    model = make_limner()
    stage = replace(STAGE, caption_weight=1.0, flow_weight=1.0, tokenizer=replace(TINY, pooled_width=6))
    own = objective(stage, model)
    losses = own(batch(model), 0)
    assert set(losses) == {"loss", "cosine", "squared_error", "quantizer", "caption", "flow"}
    encoder = own.learned.tokenizer.encoder.queries
    for name in ("cosine", "squared_error", "caption", "flow"):
        (grad,) = torch.autograd.grad(losses[name], encoder, retain_graph=True)
        assert grad.abs().sum() > 0, name
    losses["loss"].backward()
    assert own.learned.caption_proj[1].weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.parameters())
    total = sum(losses[name] for name in ("cosine", "squared_error", "quantizer", "caption", "flow"))
    assert losses["loss"].item() == pytest.approx(total.item(), rel=1e-5)


def test_kept_features_teach_what_their_pictures_do():
    model = make_limner()
    own, conversations = objective(KEPT, model), batch(model)
    features = target_features(own.trainable, conversations)
    losses, kept = own(conversations, 3), own(FeatureBatch(features), 3)
    assert set(kept) == {"loss", "cosine", "squared_error", "quantizer"} and kept["loss"] > 0
    assert all(kept[name].item() == pytest.approx(losses[name].item(), rel=1e-5) for name in kept)


def test_prefixes_begin_after_a_share_of_the_steps_and_a_step_is_made_again():
    own = objective(STAGE, make_limner())
    assert own.lengths(6, 1) is None
    drawn = [own.lengths(6, step) for step in range(2, 12)]
    assert {int(k) for own in drawn for k in own} == {1, 2, 4}
    assert torch.equal(own.lengths(6, 5), drawn[3]) and not torch.equal(drawn[3], drawn[4])


def test_a_batch_without_two_pictures_teaches_nothing():
    model = make_limner()
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    losses = objective(STAGE, model)(joint_batch([talk], model.encoder), 0)
    assert losses["loss"] == 0 and not losses["loss"].requires_grad


def test_the_words_before_a_picture_are_its_caption():
    model = make_limner()

    def talk(*words):
        messages = []
        for index, said in enumerate(words):
            messages.append({"role": "user", "content": said})
            messages.append({"role": "assistant", "content": [{"type": "image", "image": picture(index)}]})
        return messages

    made = joint_batch([talk("a red cat"), talk("a blue dog", "more"), talk("a red cat")], model.encoder)
    words, known = caption_words(TrainableModel(model.mllm, None), made)
    assert known.tolist() == [True, True, False, False], "not after another picture, and not twice the same"
    torch.testing.assert_close(words[0], words[3])
    assert not torch.allclose(words[0], words[1])


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="none of 8 conversations draws"):
        run(tmp_path, replace(STAGE, data=("world/describe",)))
    with pytest.raises(ValueError, match=r"tokenizer\.pooled_width is 0: give the width"):
        replace(STAGE, caption_weight=1.0)
    with pytest.raises(ValueError, match="pictures is 30, of which features alone are kept; caption_weight and flow"):
        replace(KEPT, flow_weight=0.1)
    with pytest.raises(ValueError, match="are all 0: nothing is learned"):
        replace(STAGE, cosine_weight=0.0, squared_error_weight=0.0)
    with pytest.raises(ValueError, match=r"visual_tokenizer\.tokenizer\.patch_width is 7; it follows from the model"):
        tokenizer_config(replace(STAGE, tokenizer=replace(TINY, patch_width=7)), make_limner())


def test_queries_begin_anew_and_nothing_else_does():
    model = make_limner()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    renew_queries(model)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith(("mllm.queries", "mllm.output_resampler")) for name in changed)
    only_tokens = make_limner(visual_codes=24, visual_lengths=(1, 2, 4), seen_images="tokens")
    with pytest.raises(ValueError, match="it draws by visual tokens alone"):
        renew_queries(only_tokens)
