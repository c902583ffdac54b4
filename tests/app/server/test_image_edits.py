"""Pictures from pictures: forms and JSON, masks, and uploads that are refused."""

import base64
import io
import time
from unittest.mock import patch

import numpy as np
import openai
import pytest
import starlette.formparsers
from openai.types import ImageEditCompletedEvent, ImageEditPartialImageEvent, ImagesResponse
from PIL import Image

from helpers import make_limner, picture, png_bytes
from limner.app.server.images.routes import edited_size
from limner.inference import kept_pixels
from served import served

URI = "data:image/png;base64," + base64.b64encode(png_bytes(1)).decode()


def opened(text):
    """A picture of base64."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"))


def checked(made, kind=ImagesResponse):
    """What the client gives, which it does not check by itself."""
    return kind.model_validate(made.model_dump())


def mask_bytes(size=(32, 32), hole=(4, 8, 20, 24)):
    """A mask of (height, width) that is transparent within the box ``hole``."""
    alpha = Image.new("L", (size[1], size[0]), 255)
    if hole:
        alpha.paste(0, hole)
    mask = Image.new("RGB", alpha.size, "white")
    mask.putalpha(alpha)
    return as_png(mask)


def as_png(image):
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def edit(server, fields=None, files=None, **more):
    """A form as curl sends it."""
    return server.http.post(
        f"{server.url}/images/edits", data={"prompt": "blue", "seed": "7"} | (fields or {}), files=files, **more
    )


def drawn(model, images, prompt="blue", **options):
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": prompt}]
    reply = model.draw([{"role": "user", "content": content}], seed=7, height=32, width=32, **options)
    return np.asarray(reply.images[0])


def test_an_edit_is_that_of_the_model(tiny, client):
    made = checked(client.images.edit(image=png_bytes(1), prompt="blue", extra_body={"seed": 7}))
    wanted = tiny.edit(picture(1), "blue", seed=7, height=32, width=32).images[0]
    assert np.array_equal(opened(made.data[0].b64_json), np.asarray(wanted))
    assert made.usage.input_tokens_details.image_tokens == tiny.config.image_tokens
    assert made.size == "32x32" and made.data[0].seed == 7


def test_several_pictures_are_shown_in_their_order(tiny, client):
    made = checked(client.images.edit(image=[png_bytes(1), png_bytes(2)], prompt="blue", extra_body={"seed": 7}))
    first = drawn(tiny, [picture(1), picture(2)])
    assert np.array_equal(opened(made.data[0].b64_json), first)
    assert not np.array_equal(first, drawn(tiny, [picture(2), picture(1)]))


def test_more_pictures_than_the_model_uses_are_refused(client):
    with pytest.raises(openai.BadRequestError, match="3 pictures; tiny draws from at most 2") as error:
        client.images.edit(image=[png_bytes(i) for i in range(3)], prompt="blue")
    assert error.value.param == "image"


def test_options_of_a_form_reach_the_model(tiny, client):
    options = {"num_inference_steps": 2, "image_guidance_scale": 2.0, "guidance_interval": [0.2, 0.9]}
    made = client.images.edit(image=png_bytes(1), prompt="blue", extra_body={"seed": 7, "adapters": {}, **options})
    assert np.array_equal(opened(made.data[0].b64_json), drawn(tiny, [picture(1)], **options))


def test_adapters_of_a_form_are_names_with_weights(client):
    with pytest.raises(openai.BadRequestError, match="cactus") as error:
        client.images.edit(image=png_bytes(1), prompt="blue", extra_body={"adapters": {"cactus": 0.7}})
    assert error.value.param == "adapters"


@pytest.mark.parametrize("names", [("image",), ("image", "image"), ("image[]", "image[]"), ("image[0]", "image[1]")])
def test_names_of_files(tiny, server, names):
    files = [(name, (f"{i}.png", png_bytes(i), "image/png")) for i, name in enumerate(names)]
    answer = edit(server, files=files)
    assert np.array_equal(
        opened(answer.json()["data"][0]["b64_json"]), drawn(tiny, [picture(i) for i in range(len(names))])
    )


def test_json_says_the_same_as_a_form(server):
    form = edit(server, {"n": "2"}, [("image[]", ("a.png", png_bytes(1))), ("mask", ("m.png", mask_bytes()))])
    mask = "data:image/png;base64," + base64.b64encode(mask_bytes()).decode()
    body = {"prompt": "blue", "seed": 7, "n": 2, "images": [{"image_url": URI}], "mask": {"image_url": mask}}
    json = server.http.post(f"{server.url}/images/edits", json=body)
    assert json.status_code == form.status_code == 200
    assert json.json()["data"] == form.json()["data"] and len(json.json()["data"]) == 2


@pytest.mark.parametrize("options", [{}, {"prompt": "a red cat"}])
def test_outside_a_mask_the_picture_stays(tiny, client, options):
    prompt = options.get("prompt", "blue")
    made = checked(client.images.edit(image=png_bytes(1), mask=mask_bytes(), prompt=prompt, extra_body={"seed": 7}))
    got, own = opened(made.data[0].b64_json), np.asarray(picture(1))
    inside = np.zeros((32, 32), bool)
    inside[8:24, 4:20] = True
    assert np.array_equal(got[~inside], own[~inside])
    assert (got[inside] != own[inside]).mean() > 0.9
    wanted = tiny.edit(picture(1), prompt, mask=(4, 8, 20, 24), seed=7).images[0]
    assert np.array_equal(got, np.asarray(wanted))


def test_a_mask_is_of_the_first_picture(tiny, client):
    files = [png_bytes(1), png_bytes(2)]
    made = client.images.edit(image=files, mask=mask_bytes(), prompt="blue", extra_body={"seed": 7})
    got, own = opened(made.data[0].b64_json), np.asarray(picture(1))
    assert np.array_equal(got[:8], own[:8]) and np.array_equal(got[:, 20:], own[:, 20:])


def test_a_stream_of_an_edit_keeps_the_rest_in_every_picture(client):
    extra = {"seed": 7, "num_inference_steps": 4}
    *partial, last = client.images.edit(
        image=png_bytes(1), mask=mask_bytes(), prompt="blue", stream=True, partial_images=2, extra_body=extra
    )
    assert len(partial) == 2
    for each in partial:
        checked(each, ImageEditPartialImageEvent)
    checked(last, ImageEditCompletedEvent)
    own = np.asarray(picture(1))
    for each in [*partial, last]:
        assert np.array_equal(opened(each.b64_json)[24:], own[24:])
    whole = client.images.edit(image=png_bytes(1), mask=mask_bytes(), prompt="blue", extra_body=extra)
    assert last.b64_json == whole.data[0].b64_json


def test_a_large_picture_is_scaled_which_is_said(server):
    files = [("image", ("a.png", png_bytes(1, (64, 96)))), ("mask", ("m.png", mask_bytes((64, 96), (30, 20, 60, 40))))]
    answer = edit(server, files=files)
    assert answer.status_code == 200 and answer.json()["size"] == "32x32"
    assert "96 x 64 is more than tiny edits" in answer.headers["X-Limner-Note"]
    assert "X-Limner-Note" not in edit(server, files=[("image", ("a.png", png_bytes(1)))]).headers


def test_the_size_is_the_pictures_own_where_the_model_holds_it():
    model = make_limner(shapes=((32, 32), (24, 40), (40, 24)))
    sizes = {(32, 32): (32, 32), (16, 32): (16, 32), (40, 24): (40, 24), (64, 64): (32, 32), (16, 16): (32, 32)}
    sizes |= {(31, 33): (32, 32), (48, 80): (24, 40)}
    for own, wanted in sizes.items():
        assert edited_size(model, picture(0, own)) == wanted, own


def test_the_size_can_be_said(server):
    answer = edit(server, {"size": "48x16"}, [("image", ("a.png", png_bytes(1)))])
    assert opened(answer.json()["data"][0]["b64_json"]).shape == (16, 48, 3)


def test_a_picture_of_a_phone_and_other_formats_are_read(tiny, server):
    upright = picture(1, (32, 16))
    exif = Image.Exif()
    exif[274] = 6
    file = io.BytesIO()
    upright.transpose(Image.Transpose.ROTATE_90).save(file, "WEBP", lossless=True, exif=exif)
    answer = edit(server, {"size": "32x32"}, [("image", ("a.jpg", file.getvalue(), "image/jpeg"))])
    assert np.array_equal(opened(answer.json()["data"][0]["b64_json"]), drawn(tiny, [upright]))


def test_what_has_no_effect_is_named(client):
    answer = client.images.with_raw_response.edit(image=png_bytes(1), prompt="blue", user="me", input_fidelity="high")
    assert answer.headers["X-Limner-Ignored"] == "input_fidelity, user"


IMAGE = ("image", ("a.png", png_bytes(1)))
WRONG_FORMS = {
    "no picture": ({}, [("mask", ("m.png", mask_bytes()))], "image"),
    "no prompt": ({"prompt": ""}, [IMAGE], "prompt"),
    "a text as picture": ({"image": URI}, [("mask", ("m.png", mask_bytes()))], "image"),
    "an empty picture": ({}, [("image", ("a.png", b""))], "image"),
    "no picture's bytes": ({}, [("image", ("a.png", b"hello"))], "image"),
    "a second picture that is broken": ({}, [IMAGE, ("image", ("b.png", png_bytes(2)[:99]))], "image.1"),
    "svg": ({}, [("image", ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>"))], "image"),
    "mask of another size": ({}, [IMAGE, ("mask", ("m.png", mask_bytes((32, 16), (1, 1, 9, 9))))], "mask"),
    "mask without a hole": ({}, [IMAGE, ("mask", ("m.png", mask_bytes(hole=None)))], "mask"),
    "mask that is no picture": ({}, [IMAGE, ("mask", ("m.png", b"mask"))], "mask"),
    "two masks": ({}, [IMAGE, ("mask", ("m.png", mask_bytes())), ("mask", ("m.png", mask_bytes()))], "mask"),
    "markup": ({}, [IMAGE, ("markup", ("m.png", mask_bytes()))], "markup"),
    "a file of an unknown name": ({}, [IMAGE, ("photo", ("m.png", mask_bytes()))], "photo"),
    "an unknown field": ({"steps": "3"}, [IMAGE], "steps"),
    "no number": ({"n": "many"}, [IMAGE], "n"),
    "n with stream": ({"n": "2", "stream": "true"}, [IMAGE], "n"),
    "a field twice": ({"seed": ["1", "2"]}, [IMAGE], "seed"),
    "a list of one value": ({"seed[]": "1", "seed": "2"}, [IMAGE], "seed"),
    "a mapping in place of a value": ({"size[width]": "32"}, [IMAGE], "size"),
    "a size with a mask that is not drawn": ({"size": "31x31"}, [IMAGE, ("mask", ("m.png", mask_bytes()))], "size"),
    "too many pictures": ({}, [IMAGE] * 17, "image"),
}


@pytest.mark.parametrize("case", WRONG_FORMS)
def test_what_is_wrong_in_a_form_is_named(server, case):
    fields, files, param = WRONG_FORMS[case]
    answer = edit(server, fields, files)
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param, error
    assert error["type"] == "invalid_request_error" and server.service.accepted == 0


WRONG_JSON = {
    "a file's id": ({"images": [{"file_id": "file-1"}]}, "images.0.file_id", "send the picture along"),
    "no pictures": ({"images": []}, "images", "at least 1"),
    "pictures missing": ({}, "images", "missing"),
    "image in place of images": ({"image": URI}, "images", "missing"),
    "a path": ({"images": [{"image_url": "/etc/passwd"}]}, "images.0", "files of this machine are not read"),
    "a mask of a path": (
        {"images": [{"image_url": URI}], "mask": {"image_url": "file:///etc/passwd"}},
        "mask",
        "not read",
    ),
    "a host": ({"images": [{"image_url": "http://127.0.0.1:9/a.png"}]}, "images.0", "127.0.0.1"),
    "base64 that is none": ({"images": [{"image_url": "data:image/png;base64,%%"}]}, "images.0", "base64"),
    "too many": ({"images": [{"image_url": URI}] * 3}, "images", "3 pictures; tiny draws from at most 2"),
    "far too many": ({"images": [{"image_url": URI}] * 17}, "images", "at most 16"),
    "a picture that was": (
        {"images": [{"image_url": f"http://x/pictures/{'a' * 32}.png"}]},
        "images.0",
        "not here any more",
    ),
}


@pytest.mark.parametrize("case", WRONG_JSON)
def test_what_is_wrong_in_json_is_named(server, case):
    fields, param, said = WRONG_JSON[case]
    answer = server.http.post(f"{server.url}/images/edits", json={"prompt": "blue", **fields})
    error = answer.json()["error"]
    assert answer.status_code == 400 and error["param"] == param and said in error["message"], error


def part(name, data, more=b""):
    return b'--x\r\nContent-Disposition: form-data; name="' + name + b'"' + more + b"\r\n\r\n" + data + b"\r\n"


FILE = part(b"image", png_bytes(1), b'; filename="a.png"')
PROMPT, END = part(b"prompt", b"blue"), b"--x--\r\n"
FORM = "multipart/form-data; boundary=x"
MALFORMED = {
    "no boundary": ("multipart/form-data", PROMPT + FILE + END),
    "another boundary": ("multipart/form-data; boundary=y", PROMPT + FILE + END),
    "a boundary of 300 letters": (f"multipart/form-data; boundary={'x' * 300}", PROMPT + FILE + END),
    "an empty boundary": ("multipart/form-data; boundary=", PROMPT + FILE + END),
    "an empty body": (FORM, b""),
    "only the end": (FORM, END),
    "no end": (FORM, PROMPT + FILE),
    "an end without its last dash": (FORM, PROMPT + FILE + b"--x-"),
    "cut in a file": (FORM, PROMPT + FILE[: len(FILE) // 2]),
    "cut in a header": (FORM, PROMPT + FILE[:20]),
    "no name": (FORM, PROMPT + b"--x\r\nContent-Disposition: form-data\r\n\r\nblue\r\n" + END),
    "no headers": (FORM, b"--x\r\n\r\nblue\r\n" + END),
    "a header without a colon": (FORM, b"--x\r\nContent-Disposition\r\n\r\nblue\r\n" + END),
    "a null byte in a header": (FORM, b"--x\r\nContent\0Disposition: form-data\r\n\r\nblue\r\n" + END),
    "a header of 10,000 letters": (FORM, part(b"prompt", b"blue", b"; x=" + b"y" * 10_000) + FILE + END),
    "100 headers": (FORM, part(b"prompt", b"blue", b"".join(b"\r\nX-%d: 1" % i for i in range(100))) + FILE + END),
    "100 fields": (FORM, b"".join(part(b"f%d" % i, b"") for i in range(100)) + FILE + END),
    "a field of a megabyte": (FORM, part(b"prompt", b"a" * 1_000_000) + FILE + END),
    "100 files": (FORM, PROMPT + FILE * 100 + END),
    "line feeds alone": (FORM, (PROMPT + FILE + END).replace(b"\r\n", b"\n")),
    "json": (FORM, b'{"prompt": "blue"}'),
    "a form in JSON": ("application/json", PROMPT + FILE + END),
    "half of JSON": ("application/json", b'{"prompt": "blue", "ima'),
    "a list of JSON": ("application/json", b"[]"),
    "nothing as JSON": ("application/json", b""),
    "bytes that are no UTF-8 as JSON": ("application/json", b'{"prompt": "\xff\xfe"}'),
    "deep JSON": ("application/json", b"[" * 100_000),
    "a name of brackets": (FORM, part(b"[]", b"1") + part(b"[", b"1") + part(b"]", b"1") + PROMPT + FILE + END),
    "an unknown charset": (
        "multipart/form-data; boundary=x; charset=klingon",
        PROMPT + part(b"n", b"\xff") + FILE + END,
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_body_is_refused_and_leaves_no_file(server, case):
    kind, body = MALFORMED[case]
    files, spooled = [], starlette.formparsers.SpooledTemporaryFile

    def kept(*args, **options):
        files.append(spooled(*args, **options))
        return files[-1]

    with patch.object(starlette.formparsers, "SpooledTemporaryFile", kept):
        answer = server.http.post(f"{server.url}/images/edits", content=body, headers={"Content-Type": kind})
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert all(file.closed for file in files)


@pytest.mark.parametrize("case", ["100 fields", "a field of a megabyte", "100 files", "no end", "100 headers"])
def test_the_form_itself_is_refused(server, case):
    kind, body = MALFORMED[case]
    answer = server.http.post(f"{server.url}/images/edits", content=body, headers={"Content-Type": kind})
    assert answer.json()["error"]["code"] == "invalid_form"


def test_nothing_is_scaled_to_a_size_that_is_not_drawn(server):
    files = [IMAGE, ("mask", ("m.png", mask_bytes()))]
    with patch("limner.app.server.images.routes.fit_mask", side_effect=AssertionError):
        assert edit(server, {"size": "20000x20000"}, files).json()["error"]["param"] == "size"


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_another_body_is_of_no_type_that_is_read(server, kind):
    answer = server.http.post(f"{server.url}/images/edits", content=b"prompt=blue", headers={"Content-Type": kind})
    assert answer.status_code == 415 and answer.json()["error"]["code"] == "unsupported_content_type"


def test_more_megapixels_than_the_server_takes_are_refused():
    with served(max_megapixels=0.001, max_pictures=1) as server:
        answer = edit(server, {"size": "16x16"}, [IMAGE])
        assert answer.json()["error"]["code"] == "invalid_image" and answer.status_code == 400
        small = ("image", ("a.png", png_bytes(1, (16, 32))))
        assert edit(server, {"size": "16x16"}, [small]).status_code == 200
        assert "2 pictures; limner draws from at most 1" in edit(server, files=[small, small]).text
        assert edit(server, {"size": "48x48"}, [small]).json()["error"]["param"] == "size"


def test_who_leaves_in_the_middle_of_an_upload_leaves_nothing(server, caplog):
    def half():
        yield PROMPT + FILE[:50]
        raise RuntimeError("gone")

    with pytest.raises(RuntimeError, match="gone"):
        server.http.post(f"{server.url}/images/edits", content=half(), headers={"Content-Type": FORM})
    until = time.monotonic() + 10
    while "499" not in server.http.get(f"{server.root}/metrics").text:
        assert time.monotonic() < until, "the request goes on"
        time.sleep(0.01)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_the_document_describes_both_bodies(server):
    content = server.app.openapi()["paths"]["/v1/images/edits"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "application/json"}
    form, json = (content[kind]["schema"] for kind in ("multipart/form-data", "application/json"))
    assert {"image", "image[]", "mask", "prompt", "seed"} <= set(form["properties"]) and form["required"] == ["prompt"]
    assert set(json["required"]) == {"prompt", "images"} and "$ref" not in str(content)
    assert json["properties"]["images"]["items"]["required"] == ["image_url"]


def test_what_an_edit_leaves_alone_is_kept_exactly_where_that_is_asked_for(tiny, client, server, monkeypatch):
    monkeypatch.setattr(kept_pixels, "THRESHOLD", 256)  # an untrained model changes everything
    request = {"seed": 7, "keep": "exact"}
    made = checked(client.images.edit(image=png_bytes(1), prompt="blue", extra_body=request))
    assert np.array_equal(opened(made.data[0].b64_json), np.asarray(picture(1)))
    assert not np.array_equal(drawn(tiny, [picture(1)]), np.asarray(picture(1)))
    with_mask = {"image": png_bytes(1), "prompt": "blue", "mask": mask_bytes()}
    plain, exact = (
        checked(client.images.edit(**with_mask, extra_body={"seed": 7, "keep": k})) for k in ("model", "exact")
    )
    assert plain.data[0].b64_json == exact.data[0].b64_json, "the mask says what is kept"
    refused = edit(server, {"keep": "all"}, {"image": png_bytes(1)})
    assert refused.status_code == 400 and "keep" in refused.json()["error"]["message"]
    refused = edit(server, {"keep": "exact", "size": "64x64"}, {"image": png_bytes(1)})
    assert refused.status_code == 400 and "scale the picture" in refused.json()["error"]["message"]
    refused = client.images.with_raw_response
    with pytest.raises(openai.BadRequestError, match="keep"):
        refused.generate(prompt="a cat", extra_body={"keep": "exact"})
