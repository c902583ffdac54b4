"""How long a chat with nano stays right: `python benchmarks/long_chat.py` (five minutes).

Every conversation asks for nine of GenEval's prompts, and after each for something else: to describe it, to change it, or
nothing. A prompt counts as right where exactly one picture comes and the world's judge finds in it what was asked for.
Printed is how many of the conversations are right at each of the nine, with the history that nano is shown by default and with
all of it.
"""

from __future__ import annotations

import argparse
import random

import limner
from limner.evaluation import geneval_prompts
from limner.evaluation.judge import Judge
from limner.evaluation.world import JUDGE_FOLDER
from limner.inference.model import Limner

PROMPTS = 9
BETWEEN = ("what do you see?", "thanks", "make it blue", "put it on grass")


def talked(model: Limner, judge: Judge, history: int, conversations: int) -> list[int]:
    """How many conversations are right at each prompt."""
    rng = random.Random(1)
    known = [prompt for prompt in geneval_prompts.load_prompts() if prompt.in_world]
    right = [0] * PROMPTS
    for number in range(conversations):
        chat = model.chat(history=history, max_new_tokens=96)
        for place in range(PROMPTS):
            prompt = rng.choice(known)
            drawn = chat.say(prompt.metadata["prompt"], seed=100 * number + place).images
            right[place] += len(drawn) == 1 and prompt.matches(judge.detect(drawn)[0])
            chat.say(BETWEEN[place % len(BETWEEN)], seed=place)
    return right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=int, default=24)
    options = parser.parse_args()
    model, judge = limner.load("nano", device="cpu"), Judge.from_pretrained(JUDGE_FOLDER)
    for history in (model.defaults.history, 0):
        right = talked(model, judge, history, options.conversations)
        shown = f"the last {history} exchanges" if history else "all exchanges"
        print(f"shown {shown}: {' '.join(map(str, right))} right of {options.conversations}")


if __name__ == "__main__":
    main()
