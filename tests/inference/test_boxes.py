import pytest
from PIL import Image

from helpers import make_limner, picture
from limner.app.cli import main as cli
from limner.app.cli.options import Loading
from limner.inference.boxes import Box, draw_boxes, parse_boxes, strip_boxes
from limner.inference.reply import Reply

CAT, DOG = "<loc-112><loc-56><loc-112><loc-112>", "<loc-0><loc-0><loc-40><loc-60>"
REPLY = f"A cat <box_start>{CAT}<box_end> and a dog<box_start>{DOG}<box_end>."


def test_centre_and_size_in_224ths_become_edges():
    """SEED-X: x1 = (x - w / 2) / 224 · width, and so on; what leaves the picture is cut."""
    cat, dog = parse_boxes(REPLY)
    assert cat == Box(0.25, 0.0, 0.75, 0.5)
    assert cat.pixels(448, 200) == (112, 0, 336, 100)
    assert (dog.left, dog.top) == (0, 0) and dog.right == pytest.approx(20 / 224)
    assert strip_boxes(REPLY) == "A cat and a dog."


def test_the_form_with_underscores_and_a_box_that_the_prompt_began():
    assert parse_boxes("<loc_112><loc_112><loc_224><loc_224><box_end>") == [Box(0, 0, 1, 1)]
    assert strip_boxes("<loc_112><loc_112><loc_224><loc_224><box_end> ]]") == " ]]"


@pytest.mark.parametrize(
    "text",
    ["", "no box", "<box_start><loc-1><loc-2><box_end>", "<loc-x><loc-1><loc-1><loc-1>", f"<loc-{'9' * 5000}>" * 4],
)
def test_what_is_no_box_stays_text(text):
    assert parse_boxes(text) == [] and strip_boxes(text) == text


def test_a_reply_has_them_and_its_text_does_not():
    reply = Reply(["A ", REPLY, picture(0), "b"], "stop")
    assert len(reply.boxes) == 2 and reply.text == "A A cat and a dog. b"
    assert reply.parts[1] == REPLY


def test_they_are_drawn_on_the_picture():
    plain = Image.new("RGB", (200, 100))
    drawn = draw_boxes(plain, [Box(0.25, 0.0, 0.75, 0.5)])
    assert drawn.getpixel((50, 20)) == (255, 0, 0) and drawn.getpixel((100, 25)) == (0, 0, 0)
    assert plain.getpixel((50, 20)) == (0, 0, 0)


def test_the_command_line_draws_them(tmp_path, monkeypatch, capsys):
    model = make_limner()
    monkeypatch.setattr(type(model), "generate", lambda self, *a, **options: Reply([REPLY], str(options["boxes"])))
    monkeypatch.setattr(Loading, "load", lambda self: model)
    Image.new("RGB", (200, 100)).save(tmp_path / "in.png")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["describe", "in.png", "--boxes"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[:2] == ["A cat and a dog.", "box 50 0 150 50"] and out[-1] == "in-boxes-001.png"
    assert Image.open(tmp_path / "in-boxes-001.png").getpixel((50, 20)) == (255, 0, 0)
