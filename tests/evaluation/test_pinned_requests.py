"""What `limner eval world` asks in English stays what it was, so that figures of different days can be compared."""

import hashlib
import json
from pathlib import Path

import pytest

from limner.evaluation import kept, shapes, task_list, tasks
from limner.world import messages
from limner.world.scene import Scene

DIGESTS = json.loads((Path(__file__).parent / "pinned_requests.json").read_text())


def plain(value):
    """Scenes, edits and expectations as lists of what decides the question and its answer."""
    if isinstance(value, Scene):
        things = [(t.name, t.color, t.size, round(t.x, 6), round(t.y, 6), t.words) for t in value.things]
        return [things, value.background, value.height, value.width, value.style, value.hole]
    if isinstance(value, tasks.Expected):
        return [value.things, value.relation]
    if isinstance(value, tasks.Case):
        return [value.category, value.prompt, plain(value.expected), plain(value.scene)]
    if isinstance(value, tasks.Edit):
        return [value.kind, value.instruction, plain(value.before), plain(value.after)]
    if isinstance(value, dict):
        return {key: plain(held) for key, held in value.items()}
    return [plain(held) for held in value] if isinstance(value, (list, tuple)) else value


def digest(task, seen):
    text = json.dumps([plain(task.prompts), plain(seen)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def english(names):
    """Without what strangers say, which grows with their phrasings."""
    growing = ("chinese", "korean", "paired", "new_things", "phrasings", "everyday")
    return [n for n in names if not any(word in n for word in growing)]


@pytest.mark.parametrize("name", DIGESTS)
def test_english_requests_and_what_is_expected_of_them_are_those_of_before(name, monkeypatch):
    """Scenes stand in for their pictures, whose pixels depend on the version of Pillow."""
    seen = []

    def noted(module, name):
        real = getattr(module, name)

        def wrapped(*given, **options):
            found = real(*given, **options)
            seen.append(given[1] if name == "each_reply" else found)
            return found

        monkeypatch.setattr(module, name, wrapped)

    for module in (tasks, shapes, messages, kept):
        monkeypatch.setattr(module, "render", lambda scene: scene)
    noted(tasks, "make_cases")
    noted(tasks, "seen_edit")
    noted(tasks, "each_reply")
    noted(kept, "edit_chain")
    noted(shapes, "mixed_cases")
    task = task_list.all_tasks(200, 0, None)[name]()
    assert digest(task, seen) == DIGESTS[name]


def test_all_of_them_are_pinned():
    assert set(DIGESTS) == {n for n in english(task_list.all_tasks(8, 0, None)) if not n.startswith("by hand")}
