"""Interleaved decoding: grammar under random logits, limits, stop strings, events, history."""

import random

import pytest
import torch

from helpers import make_stream, play
from limner.mllm.decoding import Decoder
from limner.mllm.decoding_options import DecodingOptions
from limner.mllm.events import Finished, PictureDone, TextPiece
from limner.mllm.messages import EmittedText
from limner.mllm.stream import collate


@pytest.mark.slow
@pytest.mark.parametrize("shapes", [(), ((32, 32), (16, 32))])
def test_a_thousand_replies_of_random_logits_hold_only_whole_pictures(shapes):
    """250 batches of four, with sampling and every limit: text has no control token, limits hold, reasons are right."""
    model, encoder = make_stream("qwen3", shapes=shapes)
    v, rng = model.vocabulary, random.Random(0)
    control = set(v.control)
    replies = pictures_seen = cut = 0
    for batch in range(250):
        options = DecodingOptions(
            max_new_tokens=rng.randint(1, 12),
            max_images=rng.randint(1, 3),
            images=rng.choice(("auto", "auto", "force", "never")),
            temperature=rng.choice((0.0, 1.0, 5.0)),
            top_k=rng.choice((0, 5)),
            top_p=rng.choice((1.0, 0.9)),
            **rng.choice(({}, {"height": 32, "width": 32})),
        )
        noise = torch.Generator().manual_seed(batch)
        opener = v.shapes[0] if shapes else v.boi

        def logits(hidden, noise=noise, opener=opener):
            scores = 3 * torch.randn(hidden.shape[0], model.llm.config.vocab_size, generator=noise)
            scores[:, list(control)] += 6  # control tokens are what a broken grammar would let out
            scores[:, [opener, v.end_of_turn[0]]] += 4
            return scores

        model.logits = logits
        played = play(model, encoder, ["a", "bc", "d" * 9, "e"], options, [batch] * 4)
        rows, events = played.rows, played.events
        for row in rows:
            replies += 1
            images = [p for p in row.parts if not isinstance(p, str)]
            texts = [p for p in row.parts if isinstance(p, str)]
            written = sum(len(t.ids) for t in texts)
            assert not control.intersection(t for text in texts for t in text.ids)
            assert len(images) <= options.max_images and written <= options.max_new_tokens
            assert row.finish_reason == (
                "length" if written == options.max_new_tokens and row.finish_reason != "stop" else "stop"
            )
            assert options.images != "never" or not images
            assert options.images != "force" or not isinstance(row.parts[0], str)
            assert all(isinstance(t, EmittedText) for t in texts)
            pictures_seen += len(images)
            cut += row.finish_reason == "length"
        assert sum(isinstance(e, Finished) for e in events) == 4
        assert sum(isinstance(e, PictureDone) for e in events) <= 4 * options.max_images
        for row in rows:
            streamed = "".join(e.text for e in events if isinstance(e, TextPiece) and e.row == row.index)
            assert streamed == "".join(p for p in row.parts if isinstance(p, str))
    assert replies == 1000 and pictures_seen > 300 and cut > 50


def test_a_limit_says_length_and_an_end_says_stop():
    model, encoder = make_stream()
    rows = play(model, encoder, ["x", "y"], DecodingOptions(max_new_tokens=3), scripts=["abcdef", "ab"]).rows
    assert [(row.parts, row.finish_reason) for row in rows] == [(["abc"], "length"), (["ab"], "stop")]


def test_stop_strings_end_the_reply_before_themselves_even_across_tokens():
    model, encoder = make_stream()
    played = play(model, encoder, ["x"], DecodingOptions(stop=("END",)), scripts=["ab@EcENDxyz"])
    rows, events = played.rows, played.events
    assert [p if isinstance(p, str) else "@" for p in rows[0].parts] == ["ab", "@", "Ec"] and rows[
        0
    ].finish_reason == "stop"
    assert "".join(e.text for e in events if isinstance(e, TextPiece)) == "abEc"


def test_characters_of_several_tokens_are_given_out_whole(monkeypatch):
    model, encoder = make_stream()
    ids = encoder.text_ids("a고양이b")
    left = list(ids)
    end = model.vocabulary.end_of_turn[0]
    monkeypatch.setattr(Decoder, "choose", lambda decoder, rows, logits: [left.pop(0) if left else end])
    played = play(model, encoder, ["x"])
    rows, events = played.rows, played.events
    pieces = [e.text for e in events if isinstance(e, TextPiece)]
    assert pieces == ["a", "고", "양", "이", "b"] and rows[0].parts[0].ids == tuple(ids)


@torch.inference_mode()
def test_history_keeps_emitted_ids_and_a_reread_conversation_gives_the_same_state():
    """After a reply, encoding the conversation again continues exactly where decoding stood."""
    model, encoder = make_stream("qwen3", shapes=((32, 32), (16, 32)))
    played = play(model, encoder, ["draw"], scripts=["ab@c"])
    seen, rows = played.logits, played.rows
    content = [
        {"type": "text", "text": p} if isinstance(p, str) else {"type": "image", "image": p} for p in rows[0].parts
    ]
    again = encoder.encode([{"role": "user", "content": "draw"}, {"role": "assistant", "content": content}])
    output = model(collate([again], model.vocabulary, model.config))
    end = max(i for i, t in enumerate(again.input_ids) if t in model.vocabulary.end_of_turn)
    decoder_last = seen[0][-1]
    reread = model.logits(output.hidden[:, end - 1])[0]
    kept = torch.isfinite(decoder_last)
    torch.testing.assert_close(reread[kept], decoder_last[kept], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_images": -1}, "max_images is -1"),
        ({"images": "maybe"}, "images is 'maybe'"),
        ({"temperature": -1.0}, "temperature -1.0 and top_k 0 must be"),
        ({"top_p": 0.0}, "top_p 0.0"),
        ({"top_k": -1}, "top_k -1 must be"),
        ({"stop": ("",)}, "an empty stop string"),
        ({"images": "force", "max_images": 0}, "max_images is 0, too few for images='force'"),
        ({"height": 32}, "both height and width"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        DecodingOptions(**options)


@pytest.mark.parametrize("scripts", [["ab@", "abcdef@"], ["abcdef@", "a@", "abc@"], ["@", "abcdefgh@"]])
def test_a_row_that_waited_is_drawn_from_the_same_prompt(scripts):
    """Where the longest row has no holes the others may: they are closed all the same, so that the last states are its own."""
    model, encoder = make_stream("qwen3", prompt_tokens=6)

    def requests(scripts):
        asked = play(
            model, encoder, ["draw"] * len(scripts), DecodingOptions(max_new_tokens=20), scripts=scripts
        ).requests
        return sorted(asked, key=lambda request: request.row)

    together = requests(scripts)
    for script, found in zip(scripts, together, strict=True):
        (alone,) = requests([script])
        assert torch.equal(found.prompt_mask, alone.prompt_mask) and alone.prompt_mask.all()
        assert torch.allclose(found.prompt, alone.prompt, atol=1e-4)
        assert torch.allclose(found.features, alone.features, atol=1e-4)


@pytest.mark.parametrize("mode", ["seen", "queries"])
@torch.inference_mode()
def test_a_drawing_has_the_prompt_that_it_would_have_in_training(mode):
    """The last states up to its BOI, and of no branch: of the first picture and, where it is seen, of the second."""
    model, encoder = make_stream("qwen3", prompt_tokens=6, drawn_images=mode)
    played = play(model, encoder, ["draw"], scripts=["ab@c@"])
    content = [{"type": "text" if isinstance(p, str) else "image", "text": p} for p in played.rows[0].parts]
    content = [p if p["type"] == "text" else {"type": "image", "image": p["text"]} for p in content]
    messages = [{"role": "user", "content": "draw"}, {"role": "assistant", "content": content}]
    output = model(collate([encoder.encode(messages, training=True)], model.vocabulary, model.config))
    assert len(played.requests) == len(output.prompt) == 2
    for request, wanted in zip(played.requests, output.prompt, strict=True):
        assert request.prompt_mask.all()
        torch.testing.assert_close(request.prompt, wanted, atol=1e-5, rtol=1e-5)
