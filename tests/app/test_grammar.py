"""The grammar of the command line: names, values, help, mistakes. No model is loaded."""

import dataclasses
import io
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from helpers import picture
from limner.app.cli.main import main
from limner.inference.generation_config import GenerationConfig

NAMES = "chat draw edit describe info eval compare train finetune distill merge precompute build convert data".split()
COMMANDS = ([], *([name] for name in NAMES), ["data", "check"], ["data", "filter"])


@pytest.fixture
def run(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")

    def run_(*words):
        status = main(words)
        out = capsys.readouterr()
        return status, out.out, out.err

    return run_


class Recorder(SimpleNamespace):
    """In a model's place: keeps what it was asked."""

    def draw(self, messages, callback, **options):
        self.options = options
        return SimpleNamespace(images=[picture(0)], text="")

    def edit(self, image, prompt, mask, callback, **options):
        return self.draw(prompt, callback, **options)

    def generate(self, messages, **options):
        self.options, self.messages = options, messages
        return SimpleNamespace(text="a cat", boxes=[])

    def resize_note(self, image, size):
        self.size = size

    def load_adapter(self, folder, name, weight):
        self.adapters = [*getattr(self, "adapters", []), (folder, name, weight)]


@pytest.fixture
def model(monkeypatch, tmp_path):
    import limner.inference.loading as loading

    recorder = Recorder()

    def load(name, device, dtype, **options):
        recorder.loaded = {"model": name, "device": device, "dtype": dtype, **options}
        return recorder

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.chdir(tmp_path)
    picture(0).save("in.png")
    return recorder


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_fits_80_columns(run, command):
    status, out, err = run(*command, "--help")
    assert status == 0 and not err and "Usage: limner" in out
    assert max(len(line) for line in out.splitlines()) <= 80
    assert out == run(*command, "-h")[1]


@pytest.mark.parametrize("command", COMMANDS[1:], ids=" ".join)
def test_the_same_option_has_the_same_name_everywhere(run, command):
    out = run(*command, "--help")[1]
    flags = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", out.replace("\n", " ")))
    assert "--output" not in flags
    for name, alias in (("--num-inference-steps", "--steps"), ("--guidance-scale", "--guidance"), ("--out", "-o")):
        assert name not in flags or alias in flags
    if "--height" in flags:
        assert {"--width", "--size"} <= flags


def test_what_writes_writes_to_out(run):
    silent = {"", "chat", "info", "compare", "data", "data check"}
    assert {" ".join(c) for c in COMMANDS if "--out -o" not in run(*c, "--help")[1]} == silent


def test_help_waits_for_neither_torch_nor_transformers():
    code = (
        "import sys; from limner.app.cli.main import main\n"
        "assert main(['--help']) == 0 and main(['draw', '--help']) == 0 and main(['build', '--help']) == 0\n"
        "assert main(['draw', 'x', '--stepz', '3']) == 2 and main(['draw', 'x', '--steps', '0']) == 2\n"
        "print({'torch', 'transformers', 'numpy'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0 and ran.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("draw x --stepz 3", "--stepz. Did you mean --steps?"),
        ("finetune D -o OUT --sett a=1", "--sett. Did you mean --set?"),
        ("drwa x", 'Did you mean "draw"?'),
        ("data chekc x", 'Did you mean "check"?'),
        ("draw a red cat", "unexpected red cat; a prompt of several words stands in quotes"),
        ("draw -x", "Unknown option: -x"),
        ("draw", "PROMPT requires an argument"),
        ("draw x --seed", "--seed requires an argument"),
        ("draw x --seed 1.5", "'1.5' is not a whole number"),
        ("draw x --steps four", "'four' is not a whole number"),
        ("draw x --guidance high", '"high"'),
        ("draw x --size 128", "'128' is not HxW"),
        ("draw x --size 64x64 --height 3", "leave out --height"),
        ("draw x --height 64", "both height and width"),
        ("draw x --seed 1 --seed 2", "--seed specified multiple times"),
        ("draw x --sampler tea", "no sampler 'tea'; there are euler"),
        ("draw x --top-p 0", "top_p 0.0 must be in (0, 1]"),
        ("draw x --bits 3", "Choose from: 8, 4"),
        ("draw x --images never", "Unknown option: --images"),
        ("draw x --backend sd3 --sampler heun", "--sampler is for a Limner model"),
        ("eval worlds", 'Did you mean "world"?'),
        ("finetune D", "--out requires an argument"),
        ("distill --set", "--out requires"),
        ("build --llm a --vision b --mmdit c -o d --shapes 64", "'64' is not HxW"),
        ("data filter D -o E --max-aspect 0.5", "max_aspect is 0.5"),
        ("--print-completion tcsh", 'Choose from: "bash", "zsh", "fish"'),
        ("chat --history -1", "history is -1"),
        ("draw x --adapter cat:half", "'half' is no weight"),
        ("draw x --adapter cat:nan", "'nan' is no weight"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(run, words, said):
    status, out, err = run(*words.split())
    assert status == 2 and not out and said in err
    assert err.startswith("limner: ") and err.count("\n") == 1


def test_nothing_asked_for_shows_the_help(run):
    status, out, _ = run()
    assert status == 2 and "finetune" in out


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(run, shell, tmp_path):
    status, out, _ = run("--print-completion", shell)
    assert status == 0 and "finetune" in out and "num-inference-steps" in out
    if shell == "bash":
        (tmp_path / "limner.bash").write_text(out)
        assert subprocess.run(["bash", "-n", str(tmp_path / "limner.bash")]).returncode == 0


def test_only_what_was_given_is_passed_on(run, model):
    assert run("draw", "a cat")[0] == 0
    assert model.options == {"seed": 0}
    assert model.loaded == {"model": "nano", "device": "auto", "dtype": "auto", "bits": None, "offload": False}


def test_aliases_are_the_fields_and_stand_anywhere(run, model):
    long = "--num-inference-steps 4 --height 96 --width 160 --guidance-scale 3.5 --seed -2".split()
    assert run("draw", "a cat", *long)[0] == 0
    first = model.options
    assert run("draw", "--seed=-2", "--size", "96x160", "--steps", "4", "a cat", "--guidance=3.5")[0] == 0
    assert model.options == first
    assert first == {"seed": -2, "height": 96, "width": 160, "num_inference_steps": 4, "guidance_scale": 3.5}


def test_drawing_takes_every_option_of_a_drawing(run, model):
    codes = "--image-mode tokens --image-tokens 8 --image-temperature 0.8 --image-top-p 0.7 --image-top-k 9"
    guided = "--token-guidance-scale 2 --image-guidance-scale 1.5 --guidance-interval 0.1 0.9 --sampler heun"
    words = f"{codes} {guided} --max-new-tokens 9 --temperature 0.5"
    rest = "--top-p 0.9 --top-k 5 --stop END --stop"
    assert run("draw", "a cat", *words.split(), *rest.split(), "the end")[0] == 0
    assert model.options == {
        "seed": 0,
        "image_mode": "tokens",
        "image_tokens": 8,
        "image_temperature": 0.8,
        "image_top_p": 0.7,
        "image_top_k": 9,
        "token_guidance_scale": 2.0,
        "image_guidance_scale": 1.5,
        "guidance_interval": (0.1, 0.9),
        "sampler": "heun",
        "max_new_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "stop": ("END", "the end"),
    }
    settled = {
        "images",
        "max_images",
        "boxes",
        "history",
        "partial_images",
        "keep",
        "num_inference_steps",
        "guidance_scale",
        "height",
        "width",
    }
    assert settled | set(model.options) - {"seed"} == {field.name for field in dataclasses.fields(GenerationConfig)}


def test_a_prompt_may_begin_with_a_dash(run, model):
    assert run("draw", "--steps", "3", "--", "-5 degrees")[0] == 0
    assert run("edit", "in.png", "-o", "out.png", "--", "--output")[0] == 0
    assert run("describe", "in.png", "--prompt=-what?")[0] == 0
    assert model.messages[0]["content"][1]["text"] == "-what?"


@pytest.mark.parametrize("words", ["--out OUT", "-o OUT", "--out=OUT", "-oOUT", "--output OUT", "--output=OUT"])
def test_ways_to_say_where_to(run, model, words, tmp_path):
    assert run("draw", "a cat", *words.replace("OUT", "cat.png").split())[:2] == (0, "cat.png\n")
    assert (tmp_path / "cat.png").exists()


def test_adapters_and_devices(run, model):
    words = "--adapter a --adapter blue=b:0.5 --device cuda:0,cuda:1 --bits 8 --model giga".split()
    assert run("describe", "in.png", *words, "--temperature", "0.3")[:2] == (0, "a cat\n")
    assert model.adapters == [("a", None, 1.0), ("b", "blue", 0.5)] and model.loaded["bits"] == 8
    assert model.loaded["device"] == {"mllm": "cuda:0", "detokenizer": "cuda:1"} and model.loaded["model"] == "giga"
    assert model.options == {"seed": 0, "temperature": 0.3, "images": "never", "boxes": False}


def test_overrides_of_a_recipe_stand_anywhere_and_none_is_dropped(run, monkeypatch):
    from limner.train import recipe

    seen = []
    monkeypatch.setattr(recipe, "load_recipe", lambda name, overrides: seen.append((name, overrides)))
    monkeypatch.setattr(recipe, "run_recipe", lambda loaded, stages: stages)
    words = "train tiny a=1 --stages joint,sft b=2 --set c=3 d=4 --set e=[5,6] --out runs/x".split()
    assert run(*words)[:2] == (0, "('joint', 'sft')\n")
    assert run("train", "a=1", "--set", "b=2")[0] == run("train")[0] == run("train", "--stages", "joint", "a=1")[0] == 0
    assert seen[0] == ("tiny", ["a=1", "b=2", "c=3", "d=4", "e=[5,6]", "output=runs/x"])
    assert seen[1:] == [("nano", ["a=1", "b=2"]), ("nano", []), ("nano", ["a=1"])]


def test_evaluation_s_options(run, monkeypatch, model):
    from limner.evaluation import world

    seen = {}
    monkeypatch.setattr(world, "evaluate", lambda model, out, **options: seen.update(options, out=str(out)))
    assert run(*"eval world --limit 40 --only edit/ --only draw --part 1/4 --steps 4 --dtype float32".split())[0] == 0
    assert seen.pop("only") == ("edit/", "draw") and model.loaded["dtype"] == "float32"
    assert seen == {"limit": 40, "part": (0, 4), "steps": 4, "seeds": 1, "ocr": False, "out": "eval"}
    run("eval", "world", "--output", "elsewhere")
    assert seen["out"] == "elsewhere" and seen["part"] == (0, 1)


def test_rules_of_a_filter(run, monkeypatch):
    from limner.train.datasets import filter

    seen = []
    monkeypatch.setattr(filter, "filter_dataset", lambda *given: seen.append(given) or {"kept": 1, "dropped": 0})
    assert run(*"data filter D -o E --min-side 30 --duplicate-bits -1 --min-similarity -0.5".split())[0] == 0
    assert seen[0][0] == "D" and seen[0][2] == filter.Rules(min_side=30, duplicate_bits=-1, min_similarity=-0.5)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), KeyboardInterrupt("run the same command to go on")])
def test_ctrl_c_ends_in_one_line_and_status_130(run, model, monkeypatch, error):
    def stopped(self, *_, **__):
        raise error

    monkeypatch.setattr(Recorder, "draw", stopped)
    status, _, err = run("draw", "a cat")
    assert status == 130 and err == f"\nlimner: {str(error) or 'stopped'}\n"


def test_a_reader_that_goes_away_ends_it_quietly():
    command = f"'{sys.executable}' -m limner.app.cli draw --help | head -1"
    ran = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert ran.stdout.startswith("Usage") and not ran.stderr


def test_the_version_and_python_m(run):
    status, out, err = run("--version")
    assert status == 0 and not err
    assert re.search(
        r"^limner \d+\.\d+.*\ntorch \d.*\nPython \d.*, device (cpu|cuda|mps)$", out, re.DOTALL | re.MULTILINE
    )
    ran = subprocess.run([sys.executable, "-m", "limner", "draw", "x", "--stepz", "3"], capture_output=True, text=True)
    assert ran.returncode == 2 and "Did you mean --steps?" in ran.stderr


def test_settings_that_are_given_twice_are_all_kept(run, monkeypatch, model):
    from limner.train import distill, finetune

    seen = []
    for command in (distill, finetune):
        monkeypatch.setattr(command, "load_config", lambda settings: seen.append([*settings]))
    monkeypatch.setattr(distill, "distill", lambda *_: "out")
    monkeypatch.setattr(finetune, "finetune", lambda *_: "out")
    model.config = SimpleNamespace(replay="none")
    words = "-o out --set rank=7 seed=5 --set alpha=2".split()
    assert run("finetune", "pics", *words)[0] == run("distill", *words)[0] == 0
    assert seen == [["rank=7", "seed=5", "alpha=2"]] * 2


WITHOUT = """
import importlib.machinery, sys


class Without(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        gone = name.split(".")[0] in ("datasets", "hydra", "omegaconf", "pyarrow", "tensorboard")
        return None if gone else super().find_spec(name, path, target)


sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = Without
from limner.app.cli.main import main

for command in sys.argv[1:]:
    print(main(command.split()), flush=True)
"""


@pytest.mark.slow
def test_what_an_extra_lacks_is_told(tmp_path):
    commands = ["finetune D -o A", "distill -o B", "train"]
    (tmp_path / "D").mkdir()
    picture(0).save(tmp_path / "D/a.png")
    (tmp_path / "D/a.txt").write_text("a thing")
    words = [sys.executable, "-c", WITHOUT, *commands]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" not in ran.stderr
    assert [line for line in ran.stdout.splitlines() if line.isdecimal()] == ["2"] * len(commands)
    assert ran.stderr.count("pip install 'limner[train]'") == len(commands)


def test_a_full_disk_and_closed_streams(tmp_path):
    command = f"'{sys.executable}' -m limner.app.cli draw --help"
    for redirected, status, said in ((">/dev/full", 2, "No space left"), (">&-", 0, ""), (">&- 2>&-", 0, "")):
        ran = subprocess.run(["bash", "-c", f"{command} {redirected}"], capture_output=True, text=True)
        assert (ran.returncode, "Traceback" in ran.stderr) == (status, False) and said in ran.stderr
        assert ran.stderr.count("\n") == (1 if said else 0)


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_is_printed_fits_the_encoding_and_holds_no_controls(encoding):
    from limner.app.cli.terminal import PrintableStream

    raw = io.BytesIO()
    stream = PrintableStream(io.TextIOWrapper(raw, encoding=encoding, errors="strict"))
    print("caf\u00e9 \ud55c \x1b]52;c;x\x07 \x9b2J \u202egnp.exe \udce9\t\r\n", file=stream, flush=True)
    print("\x1b[A\x1b[A", end="", file=stream, flush=True)  # tqdm's
    said = raw.getvalue().decode(encoding)
    controls = r"\x1b]52;c;x\x07 \x9b2J \u202egnp.exe \udce9" + "\t\n\n\x1b[A\x1b[A"
    letters = {"ascii": r"caf\xe9 \ud55c ", "latin-1": "caf\u00e9 \\ud55c ", "utf-8": "caf\u00e9 \ud55c "}
    assert said.replace("\r", "") == letters[encoding] + controls


def test_the_help_of_a_terminal_of_one_column_ends(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1")
    assert main(["draw", "--help"]) == 0
    assert "picture" in capsys.readouterr().out


@pytest.mark.parametrize("command", [["draw", "a cat"], ["finetune", "pics"], ["merge", "--adapter", "a"]])
def test_an_empty_path_is_not_the_folder_where_one_stands(run, command):
    """Of a shell's variable that is not set: ``--out "$OUT"``."""
    status, _, err = run(*command, "--out", "")
    assert status == 2 and "the path is empty" in err
