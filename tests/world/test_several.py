"""Several pictures, stories, scenes of many things and long conversations, checked by rules of their own."""

import random
import re
from collections import Counter

import pytest

from limner.world import dialogue as dialogues
from limner.world import sampling, talk
from limner.world.dialogue import dialogue
from limner.world.held_out import MIRROR, is_held_out, relation
from limner.world.languages import ENGLISH, LANGUAGES
from limner.world.objects import OBJECTS
from limner.world.pen import COLORS
from limner.world.scene import Scene, Thing
from limner.world.scenes import arranged_scene, atoms, many, scene_with_atoms
from limner.world.several import SETS, several
from limner.world.stories import frame_scene, story, tales, tell
from limner.world.words import NUMBERS, facts, plural, read_caption

SPELLED = {**{word: n for n, word in NUMBERS.items()}, "five": 5, "six": 6}


def named(language):
    return language.code


def pictures(message):
    return [p["image"] for p in message["content"] if p["type"] == "image"]


def texts(message):
    return [p["text"] for p in message["content"] if p["type"] == "text"]


@pytest.fixture
def plain_typing(monkeypatch):
    """Nobody mistypes a number."""
    for name in ("several", "stories", "scenes", "dialogue", "reading", "drawing", "editing"):
        module = __import__(f"limner.world.{name}", fromlist=[name])
        for typed in ("casual_typing", "casual_request"):
            monkeypatch.setattr(module, typed, lambda rng, language, words, **_: words, raising=False)


def test_as_many_pictures_as_were_asked_for_each_announced_and_right(plain_typing):
    rng, counts, kinds = random.Random(0), Counter(), Counter()
    for _ in range(400):
        request, reply = several(rng).messages
        words, scenes, plans = texts(request)[0], pictures(reply), texts(reply)
        counts[len(scenes)] += 1
        for i, (plan, scene) in enumerate(zip(plans, scenes, strict=True), 1):
            assert plan.startswith(f"{i} of {len(scenes)}: ")
            assert read_caption(plan.partition(": ")[2]) == facts(scene)
        said = re.findall(
            r"\b(two|three|four|five|six|[2-6])\b(?= (?:pictures|images|drawings|separate|different|versions|times|colours))",
            words,
        )
        assert all(SPELLED.get(n) or int(n) == len(scenes) for n in said) and all(
            SPELLED.get(n, len(scenes)) == len(scenes) for n in said
        )
        names = [s.things[0].name for s in scenes]
        named_first = [words.find(n) for n in names if n in words]
        if len(set(names)) == len(names) and len(named_first) == len(names) and all(words.count(n) == 1 for n in names):
            assert named_first == sorted(named_first), words
            kinds["list"] += 1
        elif len(set(names)) == 1:
            kinds["colours" if len({s.things[0].color for s in scenes}) > 1 else "same"] += 1
            for color in re.findall("|".join(COLORS), words.replace("orange", "orange")):
                if names[0] != color:
                    assert color in {s.things[0].color for s in scenes}
        else:
            kinds["set"] += 1
    assert set(counts) == {2, 3, 4, 5, 6} and set(kinds) == {"list", "colours", "same", "set"}
    assert all(set(members) <= set(OBJECTS) for members in SETS.values())


@pytest.mark.parametrize("language", LANGUAGES, ids=named)
def test_a_story_has_as_many_pictures_as_were_asked_for_and_one_hero(language, plain_typing):
    rng, lengths = random.Random(1), Counter()
    for _ in range(200):
        request, reply = story(rng, language).messages
        scenes, said = pictures(reply), texts(reply)
        lengths[len(scenes)] += 1
        assert not any(map(is_held_out, scenes)) and len(said) - len(scenes) in (0, 1)
        digits = re.findall(r"\b[2-6](?=\D*$)", texts(request)[0])
        assert all(int(n) == len(scenes) for n in digits)
        if language is ENGLISH:
            numbers = re.findall(r"\b(two|three|four|five|six)(?= (?:pictures|parts))", texts(request)[0])
            assert [SPELLED[n] for n in numbers] in ([], [len(scenes)])
            assert numbers or digits or len(scenes) == 4
        assert not any(mark in words for words in said for mark in '"“”「」'), (
            "quoted words would be written in the picture"
        )
        shown = Counter(t.name for s in scenes for t in {t.name: t for t in s.things}.values())
        assert max(shown.values()) >= len(scenes) / 2, "somebody is in it throughout"
    assert set(lengths) == {2, 3, 4, 5, 6}


def test_a_story_s_pictures_are_true_of_its_sentences():
    """Places and things are read by rules of their own; a thing is named before it is drawn or with it."""
    places = {"on grass": "grass", "in a room": "room", "on sand": "sand", "in the sky": "sky", "at night": "night"}
    rng = random.Random(2)
    for _ in range(300):
        told = tell(rng, ENGLISH, rng.choice((2, 3, 4, 5, 6)), second=rng.random() < 0.5)
        so_far = ""
        for words, scene in zip(told.sentences, told.scenes, strict=True):
            so_far += " " + words.lower()
            said = {ground for phrase, ground in places.items() if phrase in words}
            assert not said or scene.background in said, words
            for thing in scene.things:
                assert thing.name in so_far or plural(thing.name) in so_far, (so_far, thing)
            numbers = re.findall(
                r"\b(two|three|four) (?:[a-z]+ )?(?:" + "|".join(plural(t.name) for t in scene.things) + ")",
                words.lower(),
            )
            assert not numbers or len(scene.things) in [SPELLED[n] for n in numbers]


def test_frames():
    kinds = {1: ("cat", "red"), 2: ("dog", "blue"), 3: ("bus", "green")}
    one, three, pair = (frame_scene(kinds, shown, "sand") for shown in ("1:c3", "2x3", "3 below 1:c2"))
    assert [(t.name, t.color) for t in one.things] == [("cat", "green")] and one.background == "sand"
    assert [(t.name, t.color) for t in three.things] == [("dog", "blue")] * 3
    assert [(t.name, t.color) for t in pair.things] == [("bus", "green"), ("cat", "blue")]
    assert relation(*pair.things) == "below"
    for language in LANGUAGES:
        assert all(len(found) >= 8 for found in tales(language).values())
        train, kept = ({t.title for found in tales(language, v).values() for t in found} for v in (False, True))
        assert not train & kept and kept


def test_many_things_stand_in_the_order_in_which_they_are_told(plain_typing):
    rng, sizes = random.Random(3), Counter()
    for _ in range(300):
        scene = arranged_scene(rng, sampling.NAMES)
        sizes[atoms(scene)] += 1
        told = ENGLISH.caption(scene)
        assert read_caption(told).counts == facts(scene).counts, told
        axis = "x" if told.startswith("From left") else "y"
        assert told.startswith(("From left to right", "From top to bottom"))
        order = sorted({t.name for t in scene.things}, key=lambda n: re.search(rf"\b({n}|{plural(n)})\b", told).start())
        middles = [sum(getattr(t, axis) for t in scene.things if t.name == n) for n in order]
        counted = [sum(t.name == n for t in scene.things) for n in order]
        middles = [m / c for m, c in zip(middles, counted, strict=True)]
        if "orange" not in order and not any(a in b for a in order for b in order if a != b):
            assert middles == sorted(middles)
        assert not is_held_out(scene) and all(0.1 < t.x < 0.9 and 0.1 < t.y < 0.9 for t in scene.things)
    assert min(sizes) <= 6 and max(sizes) >= 10
    for count in range(3, 11):
        assert atoms(scene_with_atoms(rng, count)) == count
    assert atoms(Scene((Thing("cat", "red", "small", 0.2, 0.5), Thing("dog", "blue", "small", 0.8, 0.5)))) == 5


def test_what_must_not_be_is_not_and_what_is_bigger_is(plain_typing):
    rng, seen = random.Random(4), Counter()
    for _ in range(600):
        request, reply = many(rng).messages
        words, (scene,) = texts(request)[-1].lower(), pictures(reply)
        if found := re.search(rf"(?:not|but|without) ({'|'.join(COLORS)})\b(?! {scene.things[0].name})", words):
            assert found[1] not in {t.color for t in scene.things}, words
            seen["not"] += 1
        if " bigger than " in words or " larger than " in words:
            a, b = re.split(" bigger than | larger than ", words)
            first, second = ([t for t in scene.things if t.name in side] for side in (a, b))
            if len(first) == len(second) == 1:
                assert (first[0].size, second[0].size) == ("medium", "small"), words
                seen["bigger"] += 1
        if re.search("no other things|nothing beside|nothing more|^only a", words):
            assert len(scene.things) == 1
            seen["only"] += 1
        if (found := re.search(r"\bit (?:is|should be|has to be|\w+:?) (\w+)", words)) and found[1] in COLORS:
            assert {t.color for t in scene.things} == {found[1]}
            seen["it"] += 1
    assert all(seen[kind] > 5 for kind in ("not", "bigger", "only", "it")), seen


@pytest.mark.parametrize("language", LANGUAGES, ids=named)
def test_conversations_have_three_to_eight_exchanges(language):
    rng, lengths = random.Random(5), Counter()
    for _ in range(150):
        messages = dialogue(rng, language).messages
        lengths[len(messages) // 2] += 1
        assert not any(is_held_out(s) for m in messages for s in pictures(m))
    assert set(lengths) == set(range(3, dialogues.LONGEST + 1))
    told = [len(talk.conversation(rng, ("dialogue",)).messages) for _ in range(200)]
    assert max(told) == 2 * dialogues.LONGEST, "whatever comes before"


def test_an_earlier_picture_that_is_named_comes_again(plain_typing):
    rng, again, undone = random.Random(6), 0, 0
    ordinals = ENGLISH.forms["dialogue.nth"]
    for _ in range(400):
        drawn = []
        for _, reply in zip(*[iter(dialogue(rng).messages)] * 2, strict=True):
            plan, scenes = " ".join(texts(reply)), pictures(reply)
            if found := re.match(rf"The ({'|'.join(ordinals)}) picture (in (\w+)|.*?):", plan):
                earlier, (scene,) = drawn[ordinals.index(found[1])], scenes
                if found[3] in COLORS:
                    assert {t.color for t in scene.things} == {found[3]} and scene.background == earlier.background
                else:
                    assert scene.things == earlier.things and scene.background != earlier.background
                again += 1
            if plan.startswith("As before:"):
                assert scenes[0] == drawn[-2]
                undone += 1
            drawn += scenes
    assert again > 50 and undone > 30


def test_questions_about_own_pictures_are_answered_honestly(plain_typing):
    """Yes and no, read from the last picture."""
    rng, checked = random.Random(7), Counter()
    for _ in range(500):
        scene = None
        for request, reply in zip(*[iter(dialogue(rng).messages)] * 2, strict=True):
            answer, words = " ".join(texts(reply)), texts(request)[0].lower()
            if (
                scene
                and not pictures(reply)
                and (found := re.match(r"(?:is there|do you see|does it show) an? (.+?)(?: in the picture)?\?", words))
            ):
                there = found[1] in {t.name for t in scene.things}
                assert answer == ("Yes." if there else "No."), (words, scene)
                checked[there] += 1
            scene = pictures(reply)[-1] if pictures(reply) else scene
    assert min(checked[True], checked[False]) > 5
    assert MIRROR["above"] == "below"
