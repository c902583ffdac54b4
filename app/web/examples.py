"""Requests to begin with: everything that nano can do (docs/nano.md), with pictures of the drawn world where some are needed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from PIL import Image

from ...world.scene import Scene, Thing, render
from .texts import LANGUAGES

GROUPS = ("draw", "edit", "look", "tell")
HORSE = Scene((Thing("horse", "brown", "large", 0.5, 0.5),))
PAIR = Scene((Thing("dog", "brown", "medium", 0.26, 0.5), Thing("chair", "red", "medium", 0.74, 0.5)), "grass")
CAT = Scene((Thing("cat", "orange", "large", 0.5, 0.5),))
CAR = Scene((Thing("car", "blue", "large", 0.5, 0.5),))
COVERED = replace(PAIR, hole=(0.5, 0.24, 0.98, 0.76))


@dataclass(frozen=True)
class Example:
    """What is said and shown."""

    group: str
    words: tuple[str, str, str]
    """In each of `LANGUAGES`; the model is asked for some things in English alone"""
    scenes: tuple[Scene, ...] = ()

    def said(self, language: str) -> str:
        """The words in a language."""
        return self.words[LANGUAGES.index(language)]

    def pictures(self) -> list[Image.Image]:
        """What is shown with them."""
        return [render(scene) for scene in self.scenes]


def style(scene: Scene, name: str) -> Scene:
    return replace(scene, style=name)


make: Callable[..., Example] = Example
EXAMPLES = (
    make("draw", ("draw a red apple on grass", "画一个草地上的红色苹果", "잔디 위에 있는 빨간 사과 그려 줘")),
    make("draw", ("a black dog left of a yellow chair", "画一只蓝色的猫", "파란 자동차 그려 줘")),
    make("draw", ("four pink donuts", "画三根黄色的香蕉", "바나나 세 개 그려 줘")),
    make("draw", ("draw a purple couch in pastel", "画一匹草地上的白马", "분홍 코끼리 그려 줘")),
    make("edit", ("make the cat green", "把猫变成绿色", "고양이를 초록색으로 바꿔 줘"), (CAT,)),
    make("edit", ("put it on sand", "放到沙地上", "배경을 모래로 바꿔 줘"), (CAR,)),
    make("edit", ("put the cat of the first picture and the car of the second on grass",) * 3, (CAT, CAR)),
    make("edit", ("follow this sketch: a white horse",) * 3, (style(HORSE, "sketch"),)),
    make("edit", ("fill the grey part with a red chair",) * 3, (COVERED,)),
    make("look", ("what do you see?", "你看到了什么？", "무엇이 보이니?"), (PAIR,)),
    make("look", ("what colour is the chair?", "椅子是什么颜色的？", "의자는 무슨 색이야?"), (PAIR,)),
    make("tell", ("tell me a story about a brown dog in four pictures",) * 3),
    make("tell", ("what can you draw?", "你会画什么？", "무엇을 그릴 수 있어?")),
)
