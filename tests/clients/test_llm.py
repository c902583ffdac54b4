"""llm, Simon Willison's command line. It prints and keeps words: a picture comes as a link in them."""

import os
import subprocess
import sys

import pytest

from pictures import FIRST, QUESTION, SECOND, SEED, URL, file, same, text, words_and_link


@pytest.fixture
def llm(tmp_path):
    """Runs `llm` with a configuration of its own and gives what it prints."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"""
- model_id: nano
  model_name: nano
  api_base: {URL}/v1
  vision: true
  headers:
    X-Limner-Picture-Format: markdown
"""
    )
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}

    def run(*words):
        command = [sys.executable, "-m", "llm", *words]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    return run


SAID = ("-m", "nano", "-o", "seed", str(SEED["seed"]))


@pytest.mark.parametrize("options", [(), ("--no-stream",)])
def test_the_second_picture_is_made_from_the_first(llm, options):
    for said, name in (((FIRST,), "first"), (("-c", SECOND), "second")):
        words, picture = words_and_link(llm(*SAID, *options, *said))
        assert words == text(name)
        assert same(picture, name)


def test_a_picture_is_described(llm):
    assert llm(*SAID, "-a", str(file("first")), QUESTION) == text("described")
