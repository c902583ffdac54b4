"""llm, Simon Willison's command line. It prints words; pictures stand in its log."""

import json
import os
import subprocess
import sys

import pytest

from pictures import FIRST, QUESTION, SECOND, SEED, URL, file, same, text


@pytest.fixture
def llm(tmp_path):
    """Runs `llm` with a configuration of its own and gives what it prints."""
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: nano\n  model_name: nano\n  api_base: {URL}/v1\n  vision: true\n"
    )
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}

    def run(*words):
        command = [sys.executable, "-m", "llm", *words]
        ran = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.strip()

    return run


def last_picture(llm):
    (logged,) = json.loads(llm("logs", "-n", "1", "--json"))
    return logged["response_json"]["choices"][0]["message"]["images"][0]["image_url"]["url"]


SAID = ("-m", "nano", "-o", "seed", str(SEED["seed"]))


def test_the_second_picture_is_made_from_the_first(llm):
    assert llm(*SAID, "--no-stream", FIRST) == text("first")
    assert same(last_picture(llm), "first")
    assert llm(*SAID, "--no-stream", "-c", SECOND) == text("second")
    assert same(last_picture(llm), "second")


def test_the_words_of_a_stream(llm):
    assert llm(*SAID, FIRST) == text("first")


def test_a_picture_is_described(llm):
    assert llm(*SAID, "-a", str(file("first")), QUESTION) == text("described")
