"""Languages are data: captions, phrases, conversations and edits in each of them, and in one invented here."""

import itertools
import random
import re
from dataclasses import replace
from pathlib import Path

import pytest

from limner.world import phrases, sampling, talk
from limner.world.edits import KINDS, seen_edit
from limner.world.grammar import english_articles, korean_particles, plural
from limner.world.held_out import held_out, is_held_out
from limner.world.language import Detail, load_language
from limner.world.languages import CHINESE, ENGLISH, KOREAN, LANGUAGES
from limner.world.objects import OBJECTS, SIGNS
from limner.world.scene import Scene, Thing
from limner.world.words import caption, facts

TINY = load_language(Path(__file__).parent / "tiny.toml", like=ENGLISH)
ALL = [*LANGUAGES, TINY]


def named(language):
    return language.name


def parts(example, role=None, kind="image"):
    return [
        p["image" if kind == "image" else "text"]
        for m in example.messages
        for p in m["content"]
        if p["type"] == kind and role in (None, m["role"])
    ]


@pytest.mark.parametrize("language", LANGUAGES, ids=named)
def test_has_a_word_of_its_own_for_everything(language):
    assert language.things.keys() == {*OBJECTS, *SIGNS} and language.names == tuple(OBJECTS)
    said = [word for words in language.things.values() for word in words]
    assert len(set(said)) == len(said)
    assert set(language.counters) <= {*OBJECTS, *SIGNS}
    assert not set(language.unknown) & set(said)


def test_words_are_those_of_the_classes():
    """Some that stand far apart in the lists."""
    for name, chinese, korean in (
        ("airplane", "飞机", "비행기"), ("cat", "猫", "고양이"), ("dog", "狗", "개"), ("orange", "橙子", "오렌지"),
        ("tv remote", "遥控器", "리모컨"), ("zebra", "斑马", "얼룩말"), ("rabbit", "兔子", "토끼"), ("shoe", "鞋子", "신발"),
    ):  # fmt: skip
        assert (CHINESE.things[name][0], KOREAN.things[name][0]) == (chinese, korean)


@pytest.mark.parametrize("language", ALL, ids=named)
def test_a_caption_tells_two_scenes_apart_as_english_does(language):
    rng = random.Random(0)
    scenes = [sampling.any_scene(rng, names=language.names) for _ in range(1000)]
    by_words, by_english = {}, {}
    for scene in scenes:
        by_words.setdefault(language.caption(scene), set()).add(caption(scene))
        by_english.setdefault(caption(scene), set()).add(language.caption(scene))
    assert all(len(said) == 1 for said in by_words.values()) and all(len(said) == 1 for said in by_english.values())


def test_captions_as_a_speaker_would_write_them():
    cat = Scene((Thing("cat", "red", "large", 0.5, 0.5),), "grass")
    dogs = Scene(tuple(Thing("dog", "white", "medium", x, 0.5) for x in (0.27, 0.73)), "night")
    pair = Scene((Thing("cat", "red", "medium", 0.26, 0.5), Thing("car", "blue", "small", 0.74, 0.5)), "room")
    assert CHINESE.caption(cat) == "一只红色的大猫，在草地上。"
    assert CHINESE.caption(dogs) == "两只白色的狗，在夜晚。"
    assert CHINESE.caption(pair) == "左边是一只红色的猫，右边是一辆蓝色的小汽车，在房间里。"
    assert CHINESE.caption(replace(cat, style="chalk")) == "一只红色的大猫，在草地上，粉笔画。"
    assert KOREAN.caption(cat) == "큰 빨간 고양이, 잔디 위에."
    assert KOREAN.caption(dogs) == "하얀 개 두 마리, 밤에."
    assert KOREAN.caption(pair) == "왼쪽에 빨간 고양이, 오른쪽에 작은 파란 자동차, 방 안에."
    assert KOREAN.caption(replace(cat, style="chalk")) == "큰 빨간 고양이, 잔디 위에, 분필 그림으로."
    assert ENGLISH.caption(pair) == "A red cat left of a small blue car in a room."


def test_rules_of_grammar():
    said = "고양이을/를 책으로/로 연필으로/로 집으로/로 개과/와 새이에요/예요"
    assert korean_particles(said) == "고양이를 책으로 연필로 집으로 개와 새예요"
    for given, wanted in (
        ("a/an cat", "a cat"), ("a/an orange cat", "an orange cat"), ("a/an red skis", "red skis"),
        ("A/An umbrella", "An umbrella"), ("a/an cat left of skis", "a cat left of skis"), ("A/An scissors", "Scissors"),
    ):  # fmt: skip
        assert english_articles(given) == wanted
    assert [plural(n) for n in ("knife", "bus", "fish", "butterfly", "toy", "hat")] == [
        "knives", "buses", "fish", "butterflies", "toys", "hats",
    ]  # fmt: skip


MARKS = re.compile(r"[{}]|a/an|[가-힣]/[가-힣]|#|  ")


@pytest.mark.parametrize("language", ALL, ids=named)
@pytest.mark.parametrize("make", talk.MIXTURE, ids=lambda make: make.__name__)
def test_every_kind_of_conversation_is_whole_in_every_language_and_shows_nothing_held_out(make, language):
    rng = random.Random(make.__name__)
    for _ in range(60):
        example = make(rng, language)
        assert example.kind == make.__name__
        assert [m["role"] for m in example.messages] == [
            ("user", "assistant")[i % 2] for i in range(len(example.messages))
        ]
        words = parts(example, kind="text")
        assert all(said.strip() and not MARKS.search(said) for said in words), words
        scenes = parts(example)
        assert not any(is_held_out(s) for s in scenes)
        assert {t.name for s in scenes for t in s.things} <= {*language.names, *SIGNS}
        if make.__name__ in ("describe", "answer", "small_talk", "refuse"):
            assert not parts(example, "assistant")
        else:
            assert parts(example, "assistant")


def colored_things(language):
    """Finds each thing that a text names with a colour before it; and what a name and a colour are called in the world."""
    names = {
        w: name
        for name, words in language.things.items()
        for word in words
        for w in (word, language.grammar.plural(word))
    }
    colors = {words[0]: color for color, words in language.colors.items()}
    for color, words in language.colors.items():  # 橘黄色的, which is orange, is not 黄色的
        colors = dict.fromkeys(words, color) | colors
    space, edge = ("", "") if language is CHINESE else (" ", r"\b")
    longest_first = "|".join(map(re.escape, sorted(names, key=len, reverse=True)))
    pattern = re.compile(f"{edge}({'|'.join(sorted(colors, key=len, reverse=True))}){space}({longest_first}){edge}")
    return lambda words: [(names[name], colors[color]) for color, name in pattern.findall(words.lower())]


@pytest.mark.parametrize("language", LANGUAGES, ids=named)
def test_what_is_held_out_is_not_told_either(language, monkeypatch):
    monkeypatch.setattr(talk, "LANGUAGE_WEIGHTS", {language: 1})
    find, rule, rng, found = colored_things(language), held_out().colors, random.Random(8), 0
    for _ in range(700):
        example = talk.conversation(rng, phrasings=0.5)
        said = parts(example, "assistant", kind="text")
        if example.kind in ("draw", "several", "story", "many", "compose", "control"):
            said += parts(example, "user", kind="text")[-1:]
        told = [pair for words in said for pair in find(words)]
        assert not rule & set(told), said
        found += len(told)
    assert found > 300


def test_a_language_that_leaves_something_out_is_told_what(tmp_path):
    text = (Path(__file__).parent / "tiny.toml").read_text()
    for given, other, message in (
        ('plain = ["desu {x}"]', "", r"tiny.toml has no templates for requests\.plain"),
        ('cat = ["miu", "miumi"]', 'gryphon = ["miu"]', "gryphon, which the world does not draw"),
        ('grammar = "plain"', 'grammar = "latin"', "no grammar 'latin'; there are plain"),
        ('large = ["maksi"]', "", r"\[sizes\] must hold small, medium, large"),
    ):
        (tmp_path / "tiny.toml").write_text(text.replace(given, other, 1))
        with pytest.raises(ValueError, match=message):
            load_language(tmp_path / "tiny.toml", like=ENGLISH)


def test_an_invented_language_draws_edits_asks_and_tells_stories():
    cat = Scene((Thing("cat", "red", "large", 0.5, 0.5),), "grass")
    assert TINY.caption(cat) == "Maksi ru miu sur herb!"
    assert TINY.plan(cat, "nun") == "Nun> maksi ru miu sur herb>"
    edit = seen_edit(random.Random(0), "recolour", before=replace(cat, background="night"), language=TINY)
    assert re.fullmatch(r"((la miu|la miumi|ta) estu )?\w+", edit.instruction)
    assert edit.plan.startswith("La miu estu ") and edit.plan.endswith("sur nokt>")
    told = talk.story(random.Random(1), TINY)
    assert len(parts(told)) == 3 and told.messages[1]["content"][0]["text"].split()[2] == "solu"


def test_a_language_that_no_stranger_wrote_in_is_told_in_its_own_templates(monkeypatch):
    monkeypatch.setattr(talk, "LANGUAGE_WEIGHTS", {TINY: 1})
    rng = random.Random(9)
    kinds = {talk.conversation(rng, phrasings=1.0).kind for _ in range(300)}
    assert kinds == {make.__name__ for make in talk.MIXTURE}


@pytest.mark.parametrize("language", ALL, ids=named)
@pytest.mark.parametrize("kind", KINDS)
def test_an_edit_says_what_there_will_be(kind, language):
    rng = random.Random(kind)
    for _ in range(15):
        edit = seen_edit(rng, kind, language=language)
        full = language.caption(edit.after).removesuffix(language.stop)
        assert edit.plan.endswith(language.colon)
        assert edit.plan.lower().endswith(full.lower() + language.colon) and len(edit.plan) > len(full) + 2


def test_a_third_of_the_worlds_talk_is_in_other_languages_than_english():
    rng = random.Random(6)
    told = [talk.conversation(rng).messages[-2] for _ in range(600)]
    text = ["".join(p.get("text", "") for p in message["content"]) for message in told]
    others = sum(any(ord(letter) > 0x2E80 for letter in said) for said in text)
    assert 0.2 < others / len(text) < 0.45
    assert len(set(text)) > 500


def test_a_description_is_right_without_sizes_and_with_another_word_of_counting():
    scene = Scene((Thing("dog", "brown", "large", 0.5, 0.5),), "room")
    assert CHINESE.caption(scene) == "一只棕色的大狗，在房间里。"
    for told in ("一只棕色的大狗，在房间里。", "一个棕色的中等的狗，在房间里。", "一只棕色的小狗，在房间里。"):
        assert CHINESE.describes(told, scene), told
    for told in (
        "一只棕色的大狗，在草地上。",
        "一只黑色的大狗，在房间里。",
        "两只棕色的狗，在房间里。",
        "一只棕色的大象，在房间里。",
    ):
        assert not CHINESE.describes(told, scene), told
    dogs = Scene(tuple(Thing("dog", "blue", "medium", x, 0.5) for x in (0.27, 0.73)), "sand")
    assert KOREAN.caption(dogs) == "파란 개 두 마리, 모래 위에."
    assert KOREAN.describes("작은 파란 개 두 개, 모래 위에.", dogs)
    assert not KOREAN.describes("파란 개 세 마리, 모래 위에.", dogs)


@pytest.mark.parametrize("language", ALL, ids=named)
def test_what_tells_a_scene_is_what_english_facts_say(language):
    rng = random.Random(2)
    scenes = [sampling.any_scene(rng, names=language.names) for _ in range(50)]
    for a, b in itertools.product(scenes, scenes):
        if a.background == b.background or a is b:
            assert language.describes(language.caption(a), b) == (facts(a) == facts(b)), (
                language.caption(a),
                language.caption(b),
            )


def test_where_one_change_would_be_held_out_another_is_made():
    rng = random.Random(4)
    scenes = (sampling.pair(rng) for _ in range(20_000))
    mirrored = (
        (s, replace(s, things=tuple(replace(t, x=o.x, y=o.y) for t, o in zip(s.things, s.things[::-1], strict=True))))
        for s in scenes
    )
    scene = next(s for s, swapped in mirrored if not is_held_out(s) and is_held_out(swapped))
    for seed in range(20):
        assert seen_edit(random.Random(seed), before=scene, kinds=("swap", "recolour")).kind == "recolour"


@pytest.mark.parametrize("language", ALL, ids=named)
def test_a_free_phrase_still_says_who_stands_where(language):
    """In whatever order the two are listed, and never as where they have changed places."""
    bare = Detail(color=False, relation=True, background=False)

    def said(*things: Thing) -> set[str]:
        rng = random.Random(0)
        return {phrases.free_phrase(rng, language, Scene(things), bare) for _ in range(1500)}

    def at(name: str, x: float, y: float) -> Thing:
        return Thing(name, "red", "medium", x, y)

    first, second = ("house", "star") if language is TINY else ("zebra", "banana")  # neither has another name
    for (ax, ay), (bx, by) in (((0.26, 0.5), (0.74, 0.5)), ((0.5, 0.26), (0.5, 0.74))):
        one, other = at(first, ax, ay), at(second, bx, by)
        found = said(one, other)
        assert found == said(other, one) and (len(found) > 15 or language is TINY)
        assert not found & said(at(first, bx, by), at(second, ax, ay))


@pytest.mark.parametrize("language", ALL, ids=named)
def test_free_phrases_name_every_colour_count_and_thing(language):
    rng = random.Random(5)
    for _ in range(800):
        scene = sampling.any_scene(rng, names=language.names)
        words = phrases.free_phrase(rng, language, scene, Detail())
        for thing in scene.things:
            assert any(n in words or language.grammar.plural(n) in words for n in language.things[thing.name])
            assert any(c in words for c in (*language.colors[thing.color], *language.color_names[thing.color]))
        if len({t.name for t in scene.things}) < len(scene.things):
            assert any(number in words for number in language.numbers[len(scene.things)])


@pytest.mark.parametrize("language", LANGUAGES, ids=named)
def test_hardly_two_requests_are_alike(language):
    rng = random.Random(6)
    red = Scene((Thing("cat", "red", "large", 0.5, 0.5),))
    said = [phrases.draw_request(rng, language, red, Detail(background=False)) for _ in range(400)]
    assert len(set(said)) > 200
