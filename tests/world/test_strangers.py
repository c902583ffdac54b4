"""Strangers' phrasings: their split, and that the reply does what the words say."""

import json
import random
import re
from collections import Counter

import pytest

from limner.world import sampling, strangers, strangers_edits, talk
from limner.world.casual import add_typo, wrapped
from limner.world.grammar import PARTICLES
from limner.world.held_out import is_held_out
from limner.world.languages import ENGLISH, LANGUAGES
from limner.world.pen import COLORS
from limner.world.scene import Scene
from limner.world.slots import fill_slots, numbers_in
from limner.world.stories import PHRASINGS, is_for_validation
from limner.world.strangers import Stranger
from limner.world.words import facts, read_caption

MARKS = re.compile(r"\{|\}|a/an|" + "|".join(f"{a}/{b}\\b" for a, b in PARTICLES.items()))
NUMBERS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6}


def named(language):
    return language.code


def told(kind, language, seed, validation=False):
    return talk.STRANGERS[kind](Stranger(random.Random(seed), language, validation))


def drawn(example):
    return [
        p["image"] for m in example.messages if m["role"] == "assistant" for p in m["content"] if p["type"] == "image"
    ]


def text(message):
    return " ".join(p["text"] for p in message["content"] if p["type"] == "text")


def test_one_line_in_ten_is_for_validation_alone():
    for language in LANGUAGES:
        train, kept = (strangers.lines(language.code, validation) for validation in (False, True))
        assert train.keys() == kept.keys() == {
            "draw_one", "count", "draw_two", "several", "story", "sign", "edit", "correct", "ask", "talk",
        }  # fmt: skip
        for kind in train:
            texts, others = ({line["text"] for line in lines[kind]} for lines in (train, kept))
            assert not texts & others and others
        sizes = [sum(map(len, lines.values())) for lines in (train, kept)]
        assert 0.07 < sizes[1] / sum(sizes) < 0.13


def test_training_never_says_a_line_of_validation(monkeypatch):
    """Whatever it is filled with: the templates that are filled are noted."""
    said = set()
    real = fill_slots

    def noted(language, given, *rest):
        said.add(given)
        return real(language, given, *rest)

    for module in (strangers, strangers_edits):
        if hasattr(module, "fill_slots"):
            monkeypatch.setattr(module, "fill_slots", noted)
    rng = random.Random(0)
    for _ in range(1500):
        talk.conversation(rng, phrasings=1.0)
    assert len(said) > 500 and not any(map(is_for_validation, said))
    said.clear()
    for _ in range(500):
        talk.conversation(rng, ("draw", "edit", "several"), phrasings=1.0, validation=True)
    assert len(said) > 50 and sum(map(is_for_validation, said)) > 0.9 * len(said), (
        "the rest are drawings before an edit"
    )


@pytest.mark.parametrize("language", LANGUAGES, ids=named)
@pytest.mark.parametrize("kind", talk.STRANGERS)
def test_conversations_are_whole_and_show_nothing_held_out(kind, language):
    for seed in range(60):
        example = told(kind, language, seed, validation=seed % 3 == 0)
        assert example.kind == kind and len(example.messages) % 2 == 0
        for message in example.messages:
            assert text(message).strip() or drawn(example)
            assert not MARKS.search(text(message)), text(message)
        scenes = [p["image"] for m in example.messages for p in m["content"] if p["type"] == "image"]
        assert not any(map(is_held_out, scenes))
        assert bool(drawn(example)) == (kind not in ("small_talk", "answer", "describe"))


def test_the_plan_is_what_is_drawn():
    """Read by rules of their own."""
    planned = 0
    for seed in range(400):
        for kind in ("draw", "edit", "follow_up"):
            *_, reply = told(kind, ENGLISH, seed).messages
            if reply["content"][0]["type"] == "text" and (
                scenes := [p["image"] for p in reply["content"] if p["type"] == "image"]
            ):
                assert read_caption(reply["content"][0]["text"].split(":")[-2]) == facts(scenes[-1])
                planned += 1
    assert planned > 800


def test_a_colour_that_is_asked_for_is_drawn_and_no_other_thing_is(monkeypatch):
    """In English, where each slot's words can be read off; other names and riddles left out."""
    monkeypatch.setattr(strangers, "OTHER_NAME_SHARE", 0)
    monkeypatch.setattr(strangers, "OTHER_COLOR_SHARE", 0)
    monkeypatch.setattr(strangers, "RIDDLE_SHARE", 0)
    monkeypatch.setattr(strangers, "TYPOS_SHARE", 0)
    checked = unusual = 0
    for seed in range(300):
        request, reply = told("draw", ENGLISH, seed).messages
        (scene,) = [p["image"] for p in reply["content"] if p["type"] == "image"]
        words = text(request).lower()
        unusual += any(t.color != sampling.USUAL_COLORS[t.name] for t in scene.things)
        for thing in scene.things:
            assert thing.name in words or ENGLISH.grammar.plural(thing.name) in words, words
        names = "|".join(re.escape(t.name) for t in scene.things)
        for color in re.findall(rf"\b({'|'.join(COLORS)}) (?:{names})", words):
            assert color in {t.color for t in scene.things}, words
            checked += 1
    assert checked > 120 and unusual > 80


@pytest.mark.parametrize("language", LANGUAGES, ids=named)
def test_each_of_several_pictures_is_announced(language):
    for seed in range(150):
        request, reply = told("several", language, seed).messages
        scenes = drawn(told("several", language, seed))
        plans = [p["text"] for p in reply["content"] if p["type"] == "text"]
        assert len(plans) == len(scenes) in (2, 3, 4)
        for i, (plan, scene) in enumerate(zip(plans, scenes, strict=True), 1):
            announced = {
                "en": f"{i} of {len(plans)}: ",
                "zh": f"第{i}张，共{len(plans)}张：",
                "ko": f"{len(plans)}장 중 {i}번째: ",
            }
            assert plan.startswith(announced[language.code])
            assert plan.lower().endswith(language.caption(scene).lower().rstrip("。.") + language.colon)
        if language is ENGLISH and (
            found := re.findall(
                rf"\b({'|'.join(NUMBERS)}) (?:separate )?(?:pictures|drawings|images)\b", text(request).lower()
            )
        ):
            assert NUMBERS[found[0]] == len(scenes)


@pytest.mark.parametrize("language", LANGUAGES, ids=named)
def test_small_talk_is_answered_in_kind_and_without_a_picture(language):
    about = {line["text"]: line["about"] for line in strangers.lines(language.code, False)["talk"]}
    texts = strangers.replies(language.code)
    assert set(about.values()) == set(texts)
    for seed in range(100):
        _, reply = told("small_talk", language, seed).messages
        assert any(text(reply) in answers for answers in texts.values())
    assert not any(len(answer.split()) > 16 for answers in texts.values() for answer in answers)


def test_corrections_and_edits_leave_what_they_do_not_name():
    for seed in range(300):
        example = told("edit", ENGLISH, seed)
        before = next(p["image"] for p in example.messages[0]["content"] if p["type"] == "image")
        (after,) = drawn(example)
        line = "".join(p["text"] for p in example.messages[1]["content"] if p["type"] == "text")
        assert before != after and line
        if before.background != after.background:
            assert before.things == after.things
        elif len(before.things) == len(after.things) == 1:
            (a,), (b,) = before.things, after.things
            differing = [f for f in ("name", "color", "size") if getattr(a, f) != getattr(b, f)]
            moved = (a.x, a.y) != (b.x, b.y)
            assert differing in (["name"], ["color"], ["size"], ["name", "color"]) or (moved and not differing)


def test_what_comes_in_without_a_colour_has_its_usual_one():
    checked = 0
    for seed in range(400):
        person = Stranger(random.Random(seed), ENGLISH)
        line = person.line("edit", edit="add")
        change = strangers_edits.told(person, line, "add")
        (new,) = [t for t in change.after.things if t.name not in {b.name for b in change.before.things}]
        if not re.search(r"\{(a|A|the|The|ct|c)2\}", line["text"]):
            assert new.color == sampling.USUAL_COLORS[new.name]
            checked += 1
    assert checked > 30


def test_every_thing_and_colour_has_other_names():
    for language in LANGUAGES:
        known = strangers.lexicon(language.code)
        assert {*COLORS, *language.names} <= known.keys()
    assert all(riddles for _, riddles in strangers.lexicon("en").values())


def test_slots():
    red, sky = ENGLISH.fields("apple", "red", count=3), {"bg": "in the sky"}
    assert fill_slots(ENGLISH, "draw {a1} {bg}, {A1}, {n1} {cts1}", {1: red}, sky) == (
        "draw a red apple in the sky, A red apple, three red apples"
    )
    _, chinese, korean = LANGUAGES
    assert fill_slots(
        chinese, "{q1}、{nct2}", {1: chinese.fields("cat", "red"), 2: chinese.fields("book", "blue", count=2)}
    ) == ("一只红色的猫、两本蓝色的书")
    said = fill_slots(korean, "{t1|을} {cn2|으로} {t2|이}", {1: korean.fields("cat"), 2: korean.fields("book", "red")})
    assert said == "고양이를 빨간색으로 책이"
    assert numbers_in("{a1} and {ct3}, {bg}") == {1, 3}


def test_the_files_are_of_their_format():
    counts = Counter()
    for path in PHRASINGS.glob("*.jsonl"):
        for line in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
            counts[path.stem] += 1
            assert line["lang"] in ("en", "zh", "ko")
    assert sum(counts.values()) > 7000


def test_typos_are_small_and_a_wish_comes_after_something_else():
    rng = random.Random(3)
    slips = {add_typo(rng, "yellow umbrella") for _ in range(500)}
    assert (
        "yellowumbrella" in slips and "yelow umbrella" in slips and any("i" in s.split()[0] for s in slips if " " in s)
    )
    assert all(abs(len(s) - len("yellow umbrella")) <= 1 for s in slips)
    for language in LANGUAGES:
        said = wrapped(rng, language, "x")
        assert said.rstrip(".。").endswith(("x", "X")) and said.count(language.stop) >= 1 + (language.code != "zh")
    assert isinstance(drawn(told("draw", ENGLISH, 0))[0], Scene)
