"""openai-python with /v1/images."""

import io

import openai
import pytest
from PIL import Image

from pictures import FIRST, SECOND, SEED, URL, file, opened, same

client = openai.OpenAI(base_url=f"{URL}/v1", api_key="none")


def test_generate():
    drawn = client.images.generate(model="nano", prompt=FIRST, extra_body=SEED)
    assert same(drawn.data[0].b64_json, "first")


def test_generate_several_with_a_size():
    drawn = client.images.generate(model="nano", prompt=FIRST, n=3, size="160x96", extra_body=SEED)
    assert [opened(image.b64_json).size for image in drawn.data] == [(160, 96)] * 3
    assert len({image.b64_json for image in drawn.data}) == 3


def test_generate_to_an_address():
    drawn = client.images.generate(model="nano", prompt=FIRST, response_format="url", extra_body=SEED)
    assert drawn.data[0].b64_json is None
    assert same(drawn.data[0].url, "first")


def test_edit():
    edited = client.images.edit(model="nano", image=file("first"), prompt=SECOND, extra_body=SEED)
    assert same(edited.data[0].b64_json, "edited")


def test_edit_with_two_pictures():
    both = [file("first"), file("without")]
    assert client.images.edit(model="nano", image=both, prompt="put them together", extra_body=SEED).data[0].b64_json


def test_what_the_mask_does_not_show_through_stays():
    mask = Image.new("RGBA", (128, 128), (0, 0, 0, 255))
    mask.paste((0, 0, 0, 0), (0, 0, 128, 64))
    saved = io.BytesIO()
    mask.save(saved, "PNG")
    edited = client.images.edit(
        model="nano", image=file("first"), mask=("mask.png", saved.getvalue()), prompt=SECOND, extra_body=SEED
    )
    lower = (0, 64, 128, 128)
    before, after = opened(file("first")).convert("RGB"), opened(edited.data[0].b64_json).convert("RGB")
    assert before.crop(lower).tobytes() == after.crop(lower).tobytes()
    assert before.tobytes() != after.tobytes()


def test_generate_in_a_stream():
    events = list(client.images.generate(model="nano", prompt=FIRST, stream=True, partial_images=2, extra_body=SEED))
    assert [event.type for event in events] == ["image_generation.partial_image"] * 2 + ["image_generation.completed"]
    assert [event.partial_image_index for event in events[:-1]] == [0, 1]
    assert same(events[-1].b64_json, "first")


def test_edit_in_a_stream():
    events = list(
        client.images.edit(
            model="nano", image=file("first"), prompt=SECOND, stream=True, partial_images=1, extra_body=SEED
        )
    )
    assert [event.type for event in events] == ["image_edit.partial_image", "image_edit.completed"]
    assert same(events[-1].b64_json, "edited")


@pytest.mark.parametrize(
    ("options", "named"), [({"size": "1x1"}, "size"), ({"n": 1000}, "n"), ({"size": "99999x99999"}, "size")]
)
def test_what_cannot_be_drawn_is_refused_by_name(options, named):
    with pytest.raises(openai.BadRequestError) as raised:
        client.images.generate(model="nano", prompt=FIRST, **options)
    assert raised.value.param == named


def test_a_file_that_is_no_picture_is_refused():
    with pytest.raises(openai.BadRequestError):
        client.images.edit(model="nano", image=("a.png", b"no picture"), prompt=SECOND)
