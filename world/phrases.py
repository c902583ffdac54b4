"""Phrases of scenes and requests in many words and orders, as people put them. Replies have one form (`Language.phrase`)."""

from __future__ import annotations

import random
import re
from dataclasses import replace

from . import sampling
from .casual import add_fillers
from .held_out import relation
from .language import Detail, Language, mentions_size
from .scene import Scene, Thing


def random_detail(rng: random.Random, scene: Scene) -> Detail:
    """What a request says and what it leaves to the artist, who then draws the usual thing: people name what is out of
    the ordinary. Unsaid are mostly a plain background, a large object alone, a medium one among others, usual colours,
    and, of "a cat and a dog", that the cat is on the left."""
    placed = len(scene.things) == 2 and relation(*scene.things) != "left of"
    usual_size = len(scene.things) == 1 and scene.things[0].size == "large"
    usual_color = all(t.color == sampling.USUAL_COLORS[t.name] for t in scene.things)
    return Detail(
        color=rng.random() < (0.4 if usual_color else 0.97),
        size=rng.random() < (0.15 if usual_size else 0.92),
        relation=placed or rng.random() < 0.35,
        background=rng.random() < (0.2 if scene.background == "plain" else 0.96),
    )


def free_phrase(rng: random.Random, language: Language, scene: Scene, detail: Detail) -> str:
    """A random phrase with the meaning of `Language.phrase`."""
    things = scene.things
    if len({(t.name, t.color) for t in things}) == 1:
        words = _some(
            rng, language, things[0], detail, len(things) == 1, len(things), _form(rng, language, len(things), detail)
        )
    elif len(things) == 2:
        form = _form(rng, language, 1, detail, within=True)  # both are named alike
        templates, a, b = pair_templates(language, things, detail)
        first, second = (_some(rng, language, t, detail, False, 1, form) for t in (a, b))
        words = language.fill(rng.choice(templates), a=first, b=second)
    else:
        return language.phrase(scene, detail)
    if detail.background:
        words = with_ground(rng, language, words, scene.background)
    if scene.style != "flat":
        words = language.say(rng, "phrases.styled", x=words, s=rng.choice(language.styles[scene.style]))
    return words


def with_ground(rng: random.Random, language: Language, words: str, background: str) -> str:
    """A phrase with its background."""
    return language.say(rng, "phrases.grounded", x=words, g=rng.choice(language.grounds[background]))


def pair_templates(
    language: Language, things: tuple[Thing, ...], detail: Detail
) -> tuple[tuple[str, ...], Thing, Thing]:
    """Templates for two objects, and which object is {a} and which is {b}."""
    where = relation(*things)
    a, b = things
    if not (where and detail.relation):  # where nobody says the place the order tells it, so it stays
        return language.forms["phrases.together"], a, b
    if where in ("right of", "below"):
        a, b = b, a
    return language.forms[f"phrases.placed.{'left of' if where in ('left of', 'right of') else 'above'}"], a, b


def _form(rng: random.Random, language: Language, count: int, detail: Detail, within: bool = False) -> str:
    """The template of one object or of several; ``within`` a longer phrase one without a comma."""
    forms = language.forms["phrases.ones" if count == 1 else "phrases.severals"]
    if within:
        forms = tuple(form for form in forms if not re.search("[,，]", form))
    if not detail.color:  # a template that ends in the colour needs one
        forms = tuple(form for form in forms if not _ends_in_color(form))
    return forms[0] if rng.random() < 0.4 else rng.choice(forms)


def _ends_in_color(form: str) -> bool:
    return "{colorname}" in form or form.find("{color}") > max(form.find("{name}"), form.find("{names}"))


def _some(
    rng: random.Random, language: Language, thing: Thing, detail: Detail, alone: bool, count: int, form: str
) -> str:
    """One object or ``count`` of it by a template, with the attributes that ``detail`` names."""
    name = language.call(rng, thing.name)
    fields = language.fields(thing.name, thing.color, count=count) | {
        "name": name,
        "names": language.grammar.plural(name),
        "size": rng.choice(language.sizes[thing.size]) if mentions_size(thing, detail, alone) else "",
        "color": rng.choice(language.colors[thing.color]) if detail.color else "",
    }
    if count > 1:
        fields["number"] = rng.choice(language.numbers[count])
    return language.fill(form, **fields)


def scene_phrase(rng: random.Random, language: Language, scene: Scene, detail: Detail, plainly: float) -> str:
    """The phrase of captions by ``plainly``'s chance, its background mostly put as requests put it; or a free one."""
    if rng.random() >= plainly:
        return free_phrase(rng, language, scene, detail)
    if detail.background and scene.style == "flat" and rng.random() < 0.75:
        words = language.phrase(scene, replace(detail, background=False))
        return with_ground(rng, language, words, scene.background)
    return language.phrase(scene, detail)


def draw_request(rng: random.Random, language: Language, scene: Scene, detail: Detail) -> str:
    """A request for a drawing: frame and phrase are plain or free."""
    plain = rng.random() < 0.5
    said = scene_phrase(rng, language, scene, detail, 0.85 if plain else 0.4)
    return ask_for(rng, language, said, plain)


def ask_for(rng: random.Random, language: Language, said: str, plain: bool) -> str:
    """A request to draw what is ``said``; one that is not plain is in more varied words."""
    if plain:
        return language.say(rng, "requests.plain", x=said)
    frames = rng.choices(("requests.ask", "requests.picture", ""), (11, 4, 3))[0]
    words = language.say(rng, frames, x=said) if frames else said
    if frames == "requests.picture" and rng.random() < 0.35:
        words = language.say(rng, "requests.show", x=words)
    return add_fillers(rng, language, words)


def shape_words(rng: random.Random, language: Language, scene: Scene, words: str) -> str:
    """Names the shape where it is not the square one, so that the shape token follows from the words."""
    if scene.height == scene.width:
        return words
    form = "requests.wide" if scene.width > scene.height else "requests.tall"
    return language.say(rng, form, x=words.rstrip(".?。？"))
