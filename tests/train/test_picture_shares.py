"""Training draws by visual tokens too, and by fewer of them or of queries: chosen before the conversation is encoded."""

import pytest
import torch
import torch.nn.functional as F

from helpers import DRAFTED, TOKENS, make_limner, picture
from limner.mllm.picture_tokens import PictureTokens, tokens_of
from limner.mllm.vision_tower import pool_features
from limner.train.data import joint_batch
from limner.train.datasets.mixture import Mixture, WorldSource
from limner.train.objective import JointObjective, LanguageObjective, pool_vision_features, target_features
from limner.train.picture_shares import PictureShares, with_needed_lengths
from limner.train.stages.joint_options import JointStage, LanguageStage
from limner.train.text_batches import TextBatches
from limner.train.trainable import TrainableModel
from limner.world.sampling import rng_for

BOTH = {**TOKENS, "query_lengths": (1, 3, 4)}


def mixture(model, **shares):
    return Mixture([(WorldSource(("draw", "edit")), 1.0)], model.encoder, 6, 3, pool=2, shares=PictureShares(**shares))


def announced(batch, model):
    """The length and the mode of every drawing, as the tokens before its block say."""
    stream, vocabulary = batch.stream, model.mllm.vocabulary
    ids = stream.input_ids
    lengths = [
        model.config.lengths[vocabulary.lengths.index(int(ids[row, begin - 1]))]
        for row, begin in zip(stream.drawing_row, stream.drawing_boi, strict=True)
    ]
    begins = ids[stream.drawing_row, stream.drawing_boi]
    return lengths, (begins == vocabulary.vis).nonzero().flatten().tolist()


def test_the_length_token_says_what_is_kept_and_a_step_is_made_again():
    model = make_limner(**BOTH)
    lengths, modes = set(), set()
    for step in range(4):
        batch = mixture(model)(step)
        own, tokens = announced(batch, model)
        assert batch.stream.drawing_length.tolist() == own and batch.stream.token_drawing.tolist() == tokens
        again = mixture(model)(step).stream
        assert torch.equal(again.input_ids, batch.stream.input_ids)
        lengths |= set(own)
        modes |= {drawing in tokens for drawing in range(len(own))}
    assert modes == {True, False} and lengths >= {1, 4} and len(lengths) >= 3
    plain = mixture(model, token_share=0.0, query_dropout=0.0)(0).stream
    assert set(plain.drawing_length.tolist()) == {4} and not len(plain.token_drawing)
    shares = PictureShares(token_share=0.25, token_dropout=0.5)
    drawn = [shares.draw(model.config, rng_for(0, i, "x")) for i in range(2000)]
    tokens = [own for own in drawn if own.mode == "tokens"]
    assert abs(len(tokens) / 2000 - 0.25) < 0.04
    assert abs(sum(own.length == 4 for own in tokens) / len(tokens) - (0.5 + 0.5 / 3)) < 0.08


@pytest.mark.parametrize("changes", [BOTH, {**BOTH, **DRAFTED}, {**TOKENS, "seen_images": "tokens"}])
def test_both_kinds_learn_in_one_step(changes):
    """The loss of codes is their cross entropy, by hand; the rows of visual tokens learn, the visual tokenizer does not."""
    model = make_limner(prompt_tokens=4, **changes)
    trainable = TrainableModel(model.mllm, model.detokenizer)
    batch = mixture(model)(0)
    losses = JointObjective(trainable, JointStage(), 0)(batch, 0)
    losses["loss"].backward()
    stream, mllm = batch.stream, model.mllm
    assert set(losses) == {"loss", "language", "features", "codes", "flow"} and len(stream.token_drawing)
    with torch.no_grad():
        output = mllm(stream, mllm.vision_tower(batch.views()))
        by_hand = 0.0
        for place, drawing in enumerate(stream.token_drawing.tolist()):
            k = int(stream.drawing_length[drawing])
            logits = mllm.logits(output.code_states[place, :k])[
                :, mllm.vocabulary.codes.start : mllm.vocabulary.codes.stop
            ]
            if mllm.draft is not None:
                logits = logits + mllm.draft_logits(output.draft_features)[place, :k]
            by_hand += float(F.cross_entropy(logits, output.codes[place, :k]))
    assert losses["codes"].item() == pytest.approx(by_hand / len(batch.target), rel=1e-4)
    table = mllm.llm.get_input_embeddings().weight.grad
    assert table[mllm.vocabulary.codes.start : mllm.vocabulary.codes.stop].abs().sum() > 0
    assert table[mllm.vocabulary.vis].abs().sum() > 0
    assert all(p.grad is None for p in mllm.visual_tokenizer.parameters())
    assert (mllm.queries.weight.grad is not None) == ("query_lengths" in changes)
    only_tokens = JointObjective(trainable, JointStage(), 0)(mixture(model, token_share=1.0)(0), 0)
    assert only_tokens["codes"] > 0
    if mllm.draft is None:
        assert only_tokens["features"] == 0, "their features are the frozen tokenizer's"
    words = LanguageObjective(trainable, LanguageStage())(batch, 0)
    assert words["codes"].item() == pytest.approx(losses["codes"].item(), rel=1e-5)


def test_queries_learn_features_for_a_draft_and_codes_leave_them_alone():
    """By hand: the squared error of all queries' features, of a drawing by tokens too; the codes' loss moves the draft."""
    model = make_limner(**BOTH, draft_by_queries=True)
    mllm = model.mllm
    batch = mixture(model, token_share=1.0)(0)
    assert set(batch.stream.drawing_length.tolist()) > {1} and len(batch.stream.token_drawing) == len(batch.target)
    trainable = TrainableModel(mllm, model.detokenizer)
    losses = LanguageObjective(trainable, LanguageStage())(batch, 0)
    with torch.no_grad():
        output = mllm(batch.stream, mllm.vision_tower(batch.views()))
        target = pool_vision_features(trainable, target_features(trainable, batch))
        error = (mllm.output_resampler(output.query_states) - target).square().mean()
    assert losses["features"].item() == pytest.approx(error.item(), rel=1e-4)
    losses["codes"].backward()
    assert all(p.grad.abs().sum() > 0 for p in mllm.draft.parameters())
    assert mllm.queries.weight.grad.abs().sum() > 0, "codes attend to them"
    assert all(p.grad is None for p in mllm.output_resampler.parameters())


def test_a_model_without_lengths_trains_as_before():
    """Whatever the shares are: not a bit of a batch and of its losses changes."""
    model = make_limner()
    plain, given = (
        Mixture([(WorldSource(), 1.0)], model.encoder, 4, 0, pool=2, **s)(0) for s in ({}, {"shares": JointStage()})
    )
    losses = [
        JointObjective(TrainableModel(model.mllm, model.detokenizer), JointStage(), 0)(b, 0) for b in (plain, given)
    ]
    assert "codes" not in losses[0] and all(torch.equal(losses[0][name], losses[1][name]) for name in losses[0])
    assert torch.equal(plain.stream.input_ids, given.stream.input_ids)


def test_text_alone_announces_the_same_shares():
    model, vocabulary = make_limner(**BOTH), make_limner(**BOTH).mllm.vocabulary
    sources = [(WorldSource(("draw",)), 1.0)]
    batches = TextBatches(sources, model.encoder, 40, 3, shares=PictureShares(token_share=0.5))
    ids = batches(1).input_ids
    assert torch.equal(ids, batches(1).input_ids) and not torch.equal(ids, batches(2).input_ids)
    assert all((ids == token).any() for token in (*vocabulary.lengths, vocabulary.vis, vocabulary.boi))
    assert not torch.isin(ids, torch.tensor([*vocabulary.codes, *vocabulary.slots])).any()


def test_a_batch_of_text_alone_trains_a_model_with_tokens():
    model = make_limner(**BOTH)
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}]
    losses = JointObjective(TrainableModel(model.mllm, model.detokenizer), JointStage(), 0)(
        joint_batch([talk], model.encoder), 0
    )
    assert set(losses) == {"loss", "language"} and losses["loss"].isfinite()


@pytest.mark.parametrize("seen_images", ["features", "tokens"])
def test_what_it_learned_it_draws(seen_images):
    """Four pictures by heart: asked for again, each comes with as many codes as it was learned with, those of the tokenizer."""
    model = make_limner(std=0.05, hidden=64, seen_images=seen_images, shapes=((32, 32), (16, 32)), **TOKENS)
    lengths = {"red cat": 1, "blue car": 2, "two apples": 4, "a tree": 4}
    talks = [
        [
            {"role": "user", "content": words},
            {
                "role": "assistant",
                "content": [{"type": "image", "image": picture(i), "tokens": PictureTokens("tokens", k)}],
            },
        ]
        for i, (words, k) in enumerate(lengths.items())
    ]
    batch = joint_batch(talks, model.encoder)
    trainable = TrainableModel(model.mllm.requires_grad_(True), None)
    optimizer = torch.optim.AdamW([p for p in trainable.parameters() if p.requires_grad], 4e-3)
    objective = LanguageObjective(trainable, LanguageStage())
    for step in range(40):
        objective(batch, step)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
    codes = model.mllm.encode_views(model.mllm.vision_tower(batch.views())).tolist()
    assert len({tuple(own) for own in codes}) == 4
    for own, (words, k) in zip(codes, lengths.items(), strict=True):
        reply = model.generate(words, image_temperature=0.0, num_inference_steps=1)
        assert (
            tokens_of(reply.images[0], model.config) == PictureTokens("tokens", k, tuple(own[:k])) and reply.text == ""
        )


def test_a_picture_announces_as_few_tokens_as_it_needs():
    """By hand: the first prefix that decodes closely enough, all where none does; pictures of all tokens keep them."""
    model = make_limner(**BOTH)
    mllm, batch = model.mllm, mixture(model, token_share=0.9, token_dropout=0.7)(0)
    stream = batch.stream
    with torch.no_grad():
        features = mllm.vision_tower(batch.views())
        own = features[stream.token_view]
        target, codes = pool_features(own, 4), mllm.encode_views(own)
        closeness = {
            k: F.cosine_similarity(mllm.visual_tokenizer.decode(codes[:, :k]), target, dim=-1).mean(1) for k in (1, 2)
        }
    wanted = float(torch.cat(list(closeness.values())).median())
    made = with_needed_lengths(mllm, stream, features, wanted)
    before, after = (b.drawing_length[stream.token_drawing].tolist() for b in (stream, made))
    expected = []
    for place, length in enumerate(before):
        fits = [k for k in (1, 2) if closeness[k][place] >= wanted]
        expected.append(4 if length == 4 else (fits or [4])[0])
    assert after == expected and after != before and len(set(after)) > 1
    batch.stream = made
    said, tokens = announced(batch, model)
    assert said == made.drawing_length.tolist() and tokens == stream.token_drawing.tolist()
    assert torch.equal(made.labels[made.labels != -100], made.input_ids[made.labels != -100])
    rest = [d for d in range(len(said)) if d not in tokens]
    assert made.drawing_length[rest].tolist() == stream.drawing_length[rest].tolist()
    assert torch.equal(with_needed_lengths(mllm, made, features, wanted).input_ids, made.input_ids)
    losses = [
        LanguageObjective(TrainableModel(mllm, None), LanguageStage(token_closeness=c))(
            mixture(model, token_share=1.0, token_dropout=1.0)(0), 0
        )
        for c in (0.0, wanted)
    ]
    assert losses[0]["codes"] != losses[1]["codes"]
    seen = make_limner(**TOKENS, seen_images="tokens")
    with pytest.raises(ValueError, match="token_closeness is for models that see pictures as features"):
        LanguageObjective(TrainableModel(seen.mllm, None), LanguageStage(token_closeness=0.9))(mixture(seen)(0), 0)
