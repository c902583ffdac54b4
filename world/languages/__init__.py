"""The world's languages: one file of words and templates each (`..language`)."""

from __future__ import annotations

from pathlib import Path

from ..language import Language, load_language

_FOLDER = Path(__file__).parent
ENGLISH = load_language(_FOLDER / "en.toml")
CHINESE = load_language(_FOLDER / "zh.toml", like=ENGLISH)
KOREAN = load_language(_FOLDER / "ko.toml", like=ENGLISH)
LANGUAGES: tuple[Language, ...] = (ENGLISH, CHINESE, KOREAN)
