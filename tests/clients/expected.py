"""What the clients have to get: the replies of `limner.load("nano").generate()` to the same conversation.

    python tests/clients/expected.py FOLDER

Run where Limner is installed. Writes FOLDER/expected.json, {"seed", "first", "second", "question": what is said,
"replies": {name: {"text", "parts"}}}, where parts are "text" or "image" in order, and each reply's picture as
FOLDER/NAME.png. A chat that goes on reads only what is new in it, which rounds otherwise than a conversation that is read from
its beginning: the second picture's other form is FOLDER/second-continued.png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import limner

SEED = 1
FIRST, SECOND = "draw a red apple on grass", "make it green"
QUESTION = "what do you see?"


def main(folder: Path) -> None:
    """Write the replies into ``folder``."""
    model = limner.load("nano")  # in the precision that this machine chooses, as the server

    def ask(*messages: dict):
        return model.generate(list(messages), seed=SEED)

    def user(*content):
        return {"role": "user", "content": list(content)}

    first = ask(user(FIRST))
    apple = first.images[0]
    replies = {
        "first": first,
        "second": ask(user(FIRST), {"role": "assistant", "content": first.parts}, user(SECOND)),
        "without": ask(user(SECOND)),  # what `second` would be had the first picture been lost
        "edited": ask(user(apple, SECOND)),
        "described": ask(user(apple, QUESTION)),
    }
    chat = model.chat(seed=SEED)
    chat.say(FIRST)
    chat.say(SECOND).images[0].save(folder / "second-continued.png")
    for name, reply in replies.items():
        for image in reply.images:
            image.save(folder / f"{name}.png")
    found = {
        name: {
            "text": reply.text,
            "parts": ["text" if isinstance(part, str) else "image" for part in reply.parts],
        }
        for name, reply in replies.items()
    }
    told = {"seed": SEED, "first": FIRST, "second": SECOND, "question": QUESTION, "replies": found}
    (folder / "expected.json").write_text(json.dumps(told, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
