"""Pictures from prompts: what the official client sends and reads, against what the model draws in Python."""

import base64
import io
import itertools
import shlex
import shutil
import subprocess
from pathlib import Path
from unittest.mock import patch

import httpx
import numpy as np
import openai
import pytest
from openai.types import ImageGenCompletedEvent, ImageGenPartialImageEvent, ImagesResponse
from PIL import Image

import limner
from helpers import psnr
from limner.mllm.decoding import Decoder
from served import next_token, served, writing


def opened(text):
    """A picture of base64."""
    return Image.open(io.BytesIO(base64.b64decode(text)))


def same(a, b):
    return np.array_equal(np.asarray(a), np.asarray(b))


def checked(made, kind=ImagesResponse):
    """What the client gives, which it does not check by itself."""
    return kind.model_validate(made.model_dump())


def test_a_picture_is_that_of_draw(tiny, client):
    made = checked(client.images.generate(prompt="a red cat", model=tiny.name, extra_body={"seed": 5}))
    (only,) = made.data
    assert same(opened(only.b64_json), tiny.draw("a red cat", seed=5).images[0])
    assert only.seed == 5 and only.revised_prompt is None and only.url is None
    assert (made.size, made.output_format, made.background) == ("32x32", "png", "opaque")


def test_a_second_time_it_is_the_same(tiny, client):
    """Nothing that is kept of a conversation changes how it is rounded."""
    made = [client.images.generate(prompt="a dog", extra_body={"seed": 2}).data[0].b64_json for _ in range(2)]
    assert made[0] == made[1]


def test_several_have_seeds_one_after_another(tiny, client):
    made = checked(client.images.generate(prompt="a red cat", n=3, extra_body={"seed": 5}))
    assert [each.seed for each in made.data] == [5, 6, 7]
    for each in made.data:
        assert psnr(opened(each.b64_json), tiny.draw("a red cat", seed=each.seed).images[0]) >= 45


def test_without_a_seed_one_is_chosen_and_told(tiny, client):
    first, second = (client.images.generate(prompt="a cat").data[0] for _ in range(2))
    assert first.seed != second.seed
    assert same(opened(first.b64_json), tiny.draw("a cat", seed=first.seed).images[0])


def test_the_plan_is_the_revised_prompt(tiny, client):
    with writing("A cat:@ Done"):
        made = checked(client.images.generate(prompt="cat", extra_body={"seed": 3}))
        reply = tiny.draw("cat", seed=3)
    assert made.data[0].revised_prompt == "A cat:" and reply.text == "A cat: D"  # max_new_tokens of the tiny model
    assert same(opened(made.data[0].b64_json), reply.images[0])
    usage = made.usage
    assert (usage.output_tokens_details.text_tokens, usage.output_tokens_details.image_tokens) == (8, 7)
    encoded = tiny.encoder.encode("cat", add_generation_prompt=True)
    assert usage.input_tokens == usage.input_tokens_details.text_tokens == len(encoded.input_ids)
    assert usage.total_tokens == usage.input_tokens + 15


def test_where_some_replies_have_no_picture_theirs_are_drawn_too(tiny, client):
    scripts = itertools.cycle(["no", "@"])
    letters = {}

    def choose(decoder, rows, scores):
        return [next_token(decoder, next(letters.setdefault(row, iter(next(scripts))), None)) for row in rows]

    with patch.object(Decoder, "choose", choose):
        made = checked(client.images.generate(prompt="cat", n=2, extra_body={"seed": 3}))
    with writing("@"):
        wanted = [tiny.draw("cat", seed=seed).images[0] for seed in (3, 4)]
    assert all(psnr(opened(own.b64_json), image) >= 45 for own, image in zip(made.data, wanted, strict=True))


def test_the_size_is_width_by_height(client):
    made = checked(client.images.generate(prompt="a cat", size="48x32"))
    assert made.size == "48x32" and opened(made.data[0].b64_json).size == (48, 32)
    assert checked(client.images.generate(prompt="a cat", size="auto")).size == "32x32"


def test_options_reach_the_model(tiny, client):
    options = {"num_inference_steps": 2, "guidance_scale": 4.0, "sampler": "heun", "guidance_interval": [0.2, 0.9]}
    made = client.images.generate(prompt="a cat", extra_body={"seed": 1, **options})
    assert same(opened(made.data[0].b64_json), tiny.draw("a cat", seed=1, **options).images[0])


@pytest.mark.parametrize(("kind", "media"), [("png", "image/png"), ("jpeg", "image/jpeg"), ("webp", "image/webp")])
def test_a_url_leads_to_the_file_for_a_while(server, client, kind, media):
    made = checked(
        client.images.generate(prompt="a cat", response_format="url", output_format=kind, extra_body={"seed": 1})
    )
    url = made.data[0].url
    assert url.startswith(f"{server.root}/pictures/") and made.data[0].b64_json is None
    answer = server.http.get(url)
    assert answer.status_code == 200 and answer.headers["content-type"] == media
    plain = client.images.generate(prompt="a cat", output_format=kind, extra_body={"seed": 1})
    assert answer.content == base64.b64decode(plain.data[0].b64_json)
    assert Image.open(io.BytesIO(answer.content)).format == kind.upper()
    edited = server.http.post(f"{server.url}/images/edits", json={"prompt": "x", "images": [{"image_url": url}]})
    assert edited.status_code == 200
    with patch.object(server.service.store, "seconds", -1.0):
        assert server.http.get(url).status_code == 404


@pytest.mark.parametrize("kind", ["jpeg", "webp"])
def test_compression_is_the_quality_of_the_file(client, kind):
    fine, coarse = (
        base64.b64decode(
            client.images.generate(
                prompt="a cat", output_format=kind, output_compression=quality, extra_body={"seed": 1}
            )
            .data[0]
            .b64_json
        )
        for quality in (100, 5)
    )
    assert len(coarse) < len(fine)


@pytest.mark.parametrize("count", [None, 0, 1, 3])
def test_a_stream_shows_the_picture_on_its_way(tiny, client, count):
    options = {} if count is None else {"partial_images": count}
    extra = {"seed": 5, "num_inference_steps": 6}
    *partial, last = client.images.generate(prompt="a red cat", stream=True, extra_body=extra, **options)
    assert [each.partial_image_index for each in partial] == list(range(count or 0))
    for each in partial:
        checked(each, ImageGenPartialImageEvent)
    checked(last, ImageGenCompletedEvent)
    drawn = tiny.draw("a red cat", seed=5, num_inference_steps=6).images[0]
    assert same(opened(last.b64_json), drawn) and last.seed == 5
    errors = [psnr(opened(each.b64_json), drawn) for each in partial]
    assert errors == sorted(errors) and all(error < 99 for error in errors)
    assert last.usage.total_tokens > last.usage.input_tokens > 0


def test_events_have_names(server):
    body = {"prompt": "a cat", "stream": True, "partial_images": 1, "num_inference_steps": 4, "output_format": "jpeg"}
    text = server.http.post(f"{server.url}/images/generations", json=body).text
    names = [line for line in text.splitlines() if line.startswith("event: ")]
    assert names == ["event: image_generation.partial_image", "event: image_generation.completed"]


def test_what_fails_on_the_way_is_the_last_event(tiny, client):
    with (
        patch.object(type(tiny.detokenizer), "advance", side_effect=RuntimeError("secret")),
        pytest.raises(openai.APIError) as error,
    ):
        list(client.images.generate(prompt="a cat", stream=True))
    assert error.value.code == "internal_error" and "secret" not in str(error.value)


WRONG = {
    "n with stream": ({"n": 2, "stream": True}, "n"),
    "url with stream": ({"response_format": "url", "stream": True}, "response_format"),
    "partial images without stream": ({"partial_images": 1}, "partial_images"),
    "four partial images": ({"partial_images": 4, "stream": True}, "partial_images"),
    "n beyond the limit": ({"n": 11}, "n"),
    "n of 0": ({"n": 0}, "n"),
    "size without x": ({"size": "large"}, "size"),
    "size that is no multiple": ({"size": "33x33"}, "size"),
    "size beyond the limit": ({"size": "60000x60000"}, "size"),
    "no prompt": ({"prompt": ""}, "prompt"),
    "blank prompt": ({"prompt": " \n"}, "prompt"),
    "long prompt": ({"prompt": "a " * 600}, "prompt"),
    "very long prompt": ({"prompt": "a" * 32_001}, "prompt"),
    "unknown field": ({"steps": 3}, "steps"),
    "transparent background": ({"background": "transparent"}, "background"),
    "quality": ({"quality": "high"}, "quality"),
    "style": ({"style": "natural"}, "style"),
    "negative prompt": ({"negative_prompt": "dogs"}, "negative_prompt"),
    "unknown adapter": ({"adapters": {"cactus": 1.0}}, "adapters"),
    "format": ({"output_format": "gif"}, "output_format"),
    "compression of a png": ({"output_compression": 50}, "output_compression"),
    "svg": ({"svg": {"model": "x"}}, "svg"),
    "frames": ({"output_format": "gif", "frame_count": 4}, "output_format"),
    "seed": ({"seed": -1}, "seed"),
    "steps": ({"num_inference_steps": 0}, "num_inference_steps"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_honoured_is_refused_by_its_name(server, client, case):
    fields, param = WRONG[case]
    answer = server.http.post(f"{server.url}/images/generations", json={"prompt": "a cat", **fields})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param, error
    assert error["type"] == "invalid_request_error" and error["message"]
    assert server.service.accepted == 0


def test_another_model_is_not_found(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.images.generate(prompt="a cat", model="gpt-image-2")
    assert error.value.code == "model_not_found"


def test_what_has_no_effect_is_named(client):
    answer = client.images.with_raw_response.generate(
        prompt="a cat",
        user="me",
        moderation="low",
        style="vivid",
        quality="auto",
        background="auto",
        response_format="b64_json",
        extra_body={"svg": None, "negative_prompt": ""},
    )
    assert answer.headers["X-Limner-Ignored"] == "moderation, style, user"


def test_who_leaves_frees_the_slot(server):
    with server.slow():
        body, before = {"prompt": "a cat", "num_inference_steps": 1000}, server.units
        with pytest.raises(httpx.ReadTimeout):
            server.http.post(f"{server.url}/images/generations", json=body, timeout=0.5)
        server.wait_until_free()
    assert server.units - before < 900


def test_who_leaves_a_stream_frees_the_slot(client, server):
    with server.slow():
        body = {"num_inference_steps": 200, "seed": 1}
        with client.images.generate(prompt="a cat", stream=True, partial_images=3, extra_body=body) as stream:
            next(stream)
        done = server.units
        server.wait_until_free()
        assert server.units <= done + 3


def test_a_full_queue_says_when_to_come_again():
    with served(max_batch=1, max_queue=1) as server, server.client() as client:
        with pytest.raises(openai.RateLimitError) as error:
            client.images.generate(prompt="a cat", n=3)
        assert int(error.value.response.headers["Retry-After"]) >= 1
        assert len(client.images.generate(prompt="a cat", n=2).data) == 2


def test_there_are_no_variations(server):
    assert server.http.post(f"{server.url}/images/variations", files={"image": b"x"}).status_code == 404


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_lines_of_the_document_work(server, tmp_path):
    document = (Path(limner.__file__).parent / "docs/serving.md").read_text()
    images = document.partition("\n## Images\n")[2].partition("\n## ")[0]
    lines = [line for line in images.splitlines() if line.startswith("curl ")]
    assert len(lines) == 5
    for name in ("apple.png", "cat.png", "mask.png"):
        Image.new("RGBA", (32, 32), (255, 0, 0, 0 if name == "mask.png" else 255)).save(tmp_path / name)
    for line in lines:
        line = line.replace("http://127.0.0.1:8000", server.root).replace("160x96", "48x32")
        told = subprocess.run(
            [*shlex.split(line), "-sS", "--fail-with-body"], cwd=tmp_path, capture_output=True, text=True
        )
        assert told.returncode == 0 and ('"url"' in told.stdout or '"b64_json"' in told.stdout), told


def test_answers_are_as_the_document_says(server):
    paths = server.app.openapi()["paths"]
    for path in ("/v1/images/generations", "/v1/images/edits"):
        content = paths[path]["post"]["responses"]["200"]["content"]
        assert (
            content["application/json"]["schema"]["$ref"].endswith("/ImagesResponse") and "text/event-stream" in content
        )
