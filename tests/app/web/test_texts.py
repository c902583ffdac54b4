"""The page's texts: in every language, and none without a use."""

import re
import string
from pathlib import Path

import pytest

from limner.app.web.examples import EXAMPLES, GROUPS
from limner.app.web.texts import LANGUAGES, TEXTS, language_of, text, translations

WEB = Path(__file__).parents[3] / "app" / "web"
SOURCES = "".join(path.read_text() for path in (*WEB.glob("*.py"), WEB / "static/page.js") if path.name != "texts.py")


def fields(said):
    return {name for _, name, _, _ in string.Formatter().parse(said) if name}


@pytest.mark.parametrize("name", TEXTS)
def test_every_text_is_in_every_language_and_used(name):
    assert len(TEXTS[name]) == len(LANGUAGES) and all(said.strip() for said in TEXTS[name])
    assert len({frozenset(fields(said)) for said in TEXTS[name]}) == 1, "the same values have their places in all"
    english, chinese, korean = TEXTS[name]
    assert not re.search("[\u3131-\uac00\uac00-\ud7a3\u4e00-\u9fff]", english)
    assert re.search("[\u4e00-\u9fff]", chinese) and re.search("[\uac00-\ud7a3]", korean)
    assert f'"{name}"' in SOURCES or name.startswith("group_"), "nobody says it"


def test_every_text_that_is_said_is_there():
    said = set(re.findall(r'\b(?:text|word|i18n)\("(\w+)"', SOURCES)) | {f"group_{group}" for group in GROUPS}
    assert len(said) > 30 and said <= set(TEXTS)
    assert set(translations("ko")) == set(TEXTS) and translations("ko")["undo"] == text("undo", "ko")


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("ko-KR,ko;q=0.9,en;q=0.8", "ko"),
        ("zh-TW", "zh-CN"),
        ("ZH", "zh-CN"),
        ("en-GB,ko", "en"),
        ("de,zh", "en"),
        ("", "en"),
        (";;,", "en"),
    ],
)
def test_the_browser_s_first_language_counts(accepted, language):
    assert language_of(accepted) == language


def test_examples_are_in_every_language_and_show_what_they_speak_of():
    assert {example.group for example in EXAMPLES} == set(GROUPS)
    for example in EXAMPLES:
        assert len(example.words) == len(LANGUAGES) and all(example.words)
        assert [picture.size for picture in example.pictures()] == [(128, 128)] * len(example.scenes)
        assert (example.group in ("edit", "look")) == bool(example.scenes)
