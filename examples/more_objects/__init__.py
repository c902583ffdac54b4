"""What nano has never seen: the rest of GenEval's eighty classes, and a cactus, each a small function as in
`train/world/objects.py`. `new_object.py` teaches one of them.
"""

from __future__ import annotations

from . import indoors, outdoors  # noqa: F401 - importing them fills OBJECTS
from .registry import OBJECTS  # noqa: F401

PLURALS = {
    "bench": "benches", "broccoli": "broccoli", "cactus": "cacti", "computer mouse": "computer mice", "knife": "knives",
    "person": "people", "sandwich": "sandwiches", "scissors": "scissors", "skis": "skis", "toothbrush": "toothbrushes",
}  # fmt: skip
