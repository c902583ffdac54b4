import itertools
import random
from dataclasses import replace

import pytest

from limner.world import language_talk, phrase_books, sampling, talk
from limner.world.edits import seen_edit
from limner.world.held_out import is_held_out
from limner.world.languages import CHINESE, KOREAN, LANGUAGES, korean_particles
from limner.world.objects import OBJECTS
from limner.world.scene import BACKGROUNDS, SIZES, Scene, Thing
from limner.world.words import Detail, caption, facts


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda t: t.name)
def test_has_a_word_of_its_own_for_everything(language):
    for words, named in ((language.things, OBJECTS), (language.grounds, BACKGROUNDS), (language.sizes, SIZES)):
        assert words.keys() == named.keys() and len(set(words.values())) == len(words)
    assert language.request_grounds.keys() == language.ground_names.keys() == BACKGROUNDS.keys()
    assert set(language.counters) <= set(OBJECTS)
    assert not set(language.unknown) & set(language.things.values())
    assert CHINESE.forms.keys() == KOREAN.forms.keys()


def test_words_are_those_of_the_classes():
    """The lists run along with the names: some that stand far apart."""
    named = {
        "airplane": ("飞机", "비행기"),
        "cat": ("猫", "고양이"),
        "dog": ("狗", "개"),
        "orange": ("橙子", "오렌지"),
        "tv remote": ("遥控器", "리모컨"),
        "zebra": ("斑马", "얼룩말"),
    }
    for name, (chinese, korean) in named.items():
        assert (CHINESE.things[name], KOREAN.things[name]) == (chinese, korean)


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda t: t.name)
def test_a_caption_tells_two_scenes_apart_as_english_does(language):
    rng = random.Random(0)
    scenes = [sampling.any_scene(rng) for _ in range(1500)]
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
    assert KOREAN.caption(cat) == "큰 빨간 고양이, 잔디 위에."
    assert KOREAN.caption(dogs) == "하얀 개 두 마리, 밤에."
    assert KOREAN.caption(pair) == "왼쪽에 빨간 고양이, 오른쪽에 작은 파란 자동차, 방 안에."
    assert (
        korean_particles("고양이을/를 책으로/로 연필으로/로 집으로/로 개과/와") == "고양이를 책으로 연필로 집으로 개와"
    )


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda t: t.name)
@pytest.mark.parametrize("kind", language_talk.CONVERSATIONS)
def test_conversations_are_whole(kind, language):
    rng = random.Random(kind)
    for _ in range(200):
        example = language_talk.CONVERSATIONS[kind](rng, language)
        assert example.kind == kind and [m["role"] for m in example.messages] == [
            ("user", "assistant")[i % 2] for i in range(len(example.messages))
        ]
        words = [p["text"] for m in example.messages for p in m["content"] if p["type"] == "text"]
        assert all(said.strip() and not {"{", "}", "/"} & set(said) for said in words)
        drawn = [p for m in example.messages if m["role"] == "assistant" for p in m["content"] if p["type"] == "image"]
        assert bool(drawn) == (kind in ("draw", "edit", "follow_up")) or kind == "follow_up"


def test_an_edit_says_what_differs():
    rng = random.Random(4)
    for _ in range(200):
        change = language_talk.seen_edit(rng, rng.choice(language_talk.EDIT_KINDS))
        said = language_talk.edit_slots(change, CHINESE)
        gone = [t.name for t in change.before.things if t not in change.after.things]
        come = [t.name for t in change.after.things if t not in change.before.things]
        if change.kind == "remove":
            assert said == {"a": CHINESE.things[gone[0]]}
        elif change.kind == "replace":
            assert said == {"a": CHINESE.things[gone[0]], "b": CHINESE.things[come[0]]}
        elif change.kind == "background":
            assert said == {"g": CHINESE.grounds[change.after.background]} and facts(change.before) != facts(
                change.after
            )


def test_a_third_of_the_worlds_talk_is_in_them():
    rng = random.Random(6)
    told = [talk.conversation(rng).messages[-2] for _ in range(600)]
    text = ["".join(p.get("text", "") for p in message["content"]) for message in told]
    abroad_ = sum(any(ord(letter) > 0x2E80 for letter in said) for said in text)
    assert 0.2 < abroad_ / len(text) < 0.45
    assert len(set(itertools.chain.from_iterable(text))) > 300


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
    assert KOREAN.describes("작은 파란 개 두 개, 모래 위에.", dogs) and not KOREAN.describes(
        "파란 개 세 마리, 모래 위에.", dogs
    )


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda t: t.name)
def test_what_tells_a_scene_is_what_english_facts_say(language):
    rng = random.Random(2)
    scenes = [sampling.any_scene(rng) for _ in range(60)]
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


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda t: t.name)
def test_other_names_are_nobody_elses(language):
    own, others = set(language.things.values()), phrase_books.PHRASE_BOOKS[language.name].names
    said = [word for words in others.values() for word in words]
    assert set(others) <= set(OBJECTS) and len(set(said)) == len(said) and not own & set(said)
    assert not set(said) & set(language.unknown)


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda t: t.name)
def test_a_free_phrase_still_says_who_stands_where(language):
    """In whatever order the two are listed, and never as where they have changed places."""
    bare = Detail(color=False, relation=True, background=False)

    def phrases(*things: Thing) -> set[str]:
        rng = random.Random(0)
        return {phrase_books.phrase(rng, language, Scene(things), bare) for _ in range(4000)}

    def at(name: str, x: float, y: float) -> Thing:
        return Thing(name, "red", "medium", x, y)

    for (ax, ay), (bx, by) in (((0.26, 0.5), (0.74, 0.5)), ((0.5, 0.26), (0.5, 0.74))):
        zebra, banana = at("zebra", ax, ay), at("banana", bx, by)  # neither has another name
        said = phrases(zebra, banana)
        assert said == phrases(banana, zebra) and len(said) > 20
        assert not said & phrases(at("zebra", bx, by), at("banana", ax, ay))


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda t: t.name)
def test_free_phrases_name_every_colour_count_and_thing(language):
    rng, spoken = random.Random(5), phrase_books.PHRASE_BOOKS[language.name]
    for _ in range(1500):
        scene = sampling.any_scene(rng)
        words = language.fix_particles(phrase_books.phrase(rng, language, scene, Detail()))
        for thing in scene.things:
            assert any(name in words for name in (language.things[thing.name], *spoken.names.get(thing.name, ())))
            colors = (*spoken.colors[thing.color], language.color_names[thing.color])
            assert any(color in words for color in colors)
        if len({t.name for t in scene.things}) < len(scene.things):
            assert any(number in words for number in spoken.numbers[len(scene.things)])


@pytest.mark.parametrize("language", LANGUAGES, ids=lambda t: t.name)
def test_hardly_two_requests_are_alike(language):
    rng = random.Random(6)
    red = Scene((Thing("cat", "red", "large", 0.5, 0.5),))
    said = [language_talk.draw_request(rng, language, red, Detail(background=False)) for _ in range(400)]
    assert len(set(said)) > 250 and not any({"{", "}", "/"} & set(words) for words in said)
