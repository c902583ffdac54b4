"""Conversations of up to eight exchanges: drawings, edits, corrections, steps back, earlier pictures again, honest answers about
what was drawn, and talk between them."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from . import sampling
from .casual import casual_request
from .drawing import draw, drawing_reply, small_talk
from .editing import edit_turns, last_picture
from .edits import seen_edit
from .held_out import is_held_out
from .language import Language
from .languages import ENGLISH
from .messages import Example, Message, user
from .reading import questions
from .scene import Scene

LONGEST = 8
"""Exchanges"""


@dataclass
class Talk:
    """A conversation so far, and the scenes that were drawn in it."""

    rng: random.Random
    language: Language
    messages: list[Message] = field(default_factory=list)
    scenes: list[Scene] = field(default_factory=list)

    def exchange(self, words: str, scene: Scene, change: str) -> None:
        """A request, and the drawing that answers it."""
        request = casual_request(self.rng, self.language, words, fillers=0.2)
        self.messages += [user(request), drawing_reply(self.rng, self.language, scene, change)]
        self.scenes.append(scene)


def _drawn(talk: Talk) -> None:
    talk.messages += draw(talk.rng, talk.language).messages
    talk.scenes.append(last_picture(talk.messages))


def _edited(talk: Talk) -> None:
    change = seen_edit(talk.rng, before=talk.scenes[-1], pronoun=talk.rng.random() < 0.5, language=talk.language)
    talk.messages += edit_turns(talk.rng, talk.language, change)
    talk.scenes.append(change.after)


def _corrected(talk: Talk) -> None:
    """No, another colour; no, another thing: of a picture of one thing."""
    rng, language, scene = talk.rng, talk.language, talk.scenes[-1]
    if len(scene.things) > 1:
        return _edited(talk)
    (thing,) = scene.things
    colored = rng.random() < 0.6
    for _ in range(100):
        color = rng.choice([c for c in sampling.COLOR_NAMES if c != thing.color])
        other = rng.choice([n for n in language.names if n != thing.name])
        after = scene.with_changed(thing, **({"color": color} if colored else {"name": other}))
        if not is_held_out(after):
            break
    else:
        return _edited(talk)
    the = language.put("caption.the", name=language.things[thing.name][0])
    said = {"color": language.color_names[color][0], "old": language.color_names[thing.color][0], "the": the,
            "name": language.things[thing.name][0], "new": language.named(other)}  # fmt: skip
    words = language.say(rng, "dialogue.correct_color" if colored else "dialogue.correct_thing", **said)
    talk.exchange(words, after, language.put("plans.recolour" if colored else "plans.replace", **said))


def _undone(talk: Talk) -> None:
    """Back to the picture before the last one."""
    if len(talk.scenes) < 2:
        return _edited(talk)
    change = talk.language.put("plans.undo")
    talk.exchange(talk.language.say(talk.rng, "dialogue.undo"), talk.scenes[-2], change)


def _earlier(talk: Talk) -> None:
    """An earlier picture, named by its number, with another colour or background."""
    rng, language = talk.rng, talk.language
    if len(talk.scenes) < 2:
        return _drawn(talk)
    at = rng.randrange(min(len(talk.scenes), len(language.forms["dialogue.nth"])))
    scene = talk.scenes[at]
    color = rng.choice([c for c in sampling.COLOR_NAMES if c != scene.things[0].color])
    ground = rng.choice([b for b in sampling.BACKGROUND_NAMES if b != scene.background])
    recoloured = replace(scene, things=tuple(replace(t, color=color) for t in scene.things))
    alone = len({(t.name, t.color) for t in scene.things}) == 1
    if alone and rng.random() < 0.5 and not is_held_out(recoloured):
        after, form, said = recoloured, "dialogue.but_color", {"color": language.color_names[color][0]}
    else:
        after = replace(scene, background=ground)
        form, said = "dialogue.but_ground", {"where": language.grounds[ground][0]}
    slots = {"nth": language.forms["dialogue.nth"][at], "x": language.put(form, **said)}
    talk.exchange(language.say(rng, "dialogue.back", **slots), after, language.put("plans.back", **slots))


def _asked(talk: Talk) -> None:
    talk.messages += questions(talk.rng, talk.language, talk.scenes[-1], 1)


def _chatted(talk: Talk) -> None:
    talk.messages += small_talk(talk.rng, talk.language).messages


EXCHANGES: dict[Callable[[Talk], None], int] = {
    _edited: 6, _drawn: 4, _corrected: 4, _earlier: 4, _asked: 4, _chatted: 3, _undone: 2,
}  # fmt: skip
"""What may come next, with its weight"""


def dialogue(rng: random.Random, language: Language = ENGLISH) -> Example:
    """Three to eight exchanges in one language."""
    talk = Talk(rng, language)
    length = rng.choices(range(3, LONGEST + 1), (6, 5, 4, 3, 2, 2))[0]
    if rng.random() < 0.3:
        _chatted(talk)
    _drawn(talk)
    while len(talk.messages) < 2 * length:
        rng.choices(tuple(EXCHANGES), tuple(EXCHANGES.values()))[0](talk)
    return Example("dialogue", talk.messages)
