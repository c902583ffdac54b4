"""A mutation test: small changes of the code, one at a time, each of which the tests of its module have to notice.

    python tests/mutation.py --seed 26 --count 250

cosmic-ray (the extra `mutation`) finds the changes; a random choice of them, at most one for each place in the code, is
tried in copies of this checkout. Survivors are printed as diffs: each is a missing test or a change without an effect.
"""

import argparse
import difflib
import importlib
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass
from multiprocessing import Process, get_context
from multiprocessing.connection import wait
from pathlib import Path

import pytest
import torch
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent
FLOW, RESAMPLER = "tests/detokenizer/test_flow.py", "tests/resamplers/test_resampler.py"
TESTS = {
    "detokenizer/flow.py": [FLOW],
    "detokenizer/samplers.py": [FLOW],
    "detokenizer/guidance.py": [FLOW],
    "mllm/encoding.py": ["tests/mllm/test_encoding.py", "tests/mllm/test_glyph_text.py"],
    "mllm/masks.py": ["tests/mllm/test_masks.py"],
    "resamplers/attention.py": [RESAMPLER],
    "resamplers/perceiver.py": [RESAMPLER],
    "resamplers/positions.py": [RESAMPLER],
    "resamplers/resampler.py": [RESAMPLER],
}
# Arithmetic turned into bit operators and the reverse raises a TypeError for floats, which would only flatter the score;
# `is` for a comparison is either nonsense or, for small integers and constant strings, the same.
LEFT_OUT = re.compile(
    r"BinaryOperator_(Add|Sub|Mul|Div|FloorDiv|Mod|Pow)_(RShift|LShift|Bit\w+)"
    r"|BinaryOperator_Bit\w+_(?!Bit)|ComparisonOperator_(Eq|NotEq|Lt|LtE|Gt|GtE)_Is"
)

CPU_SECONDS = 30
"""What a mutant's tests may take before they are killed, which counts as noticed; without a change it is 3 at most."""
# what takes seconds to import, and nothing of limner
PRELOADED = (
    "diffusers.models.autoencoders.autoencoder_kl",
    "diffusers.models.unets.unet_2d_condition",
    "torch._dynamo",
    "transformers.models.auto.modeling_auto",
    "transformers.models.qwen3.modeling_qwen3",
    "transformers.models.siglip.modeling_siglip",
)


@dataclass
class Mutant:
    module: str
    operator: str
    occurrence: int
    line: int

    def code(self, source: str) -> str:
        return mutate_code(source, get_operator(self.operator)(), self.occurrence)


def is_left_out(node) -> bool:
    """Annotations, messages, what only a type checker reads, and the stars of parameters and arguments, no operators."""
    if node.type == "operator" and node.parent.type in ("parameters", "param", "argument", "star_expr"):
        return True
    while (parent := node.parent) is not None:
        if node.type in ("raise_stmt", "fstring") or (node.type == "if_stmt" and "TYPE_CHECKING" in node.get_code()):
            return True
        if parent.type == "tfpdef" or (parent.type == "annassign" and node is parent.children[1]):
            return True
        if parent.type == "funcdef" and node is parent.annotation:
            return True
        node = parent
    return False


def find_mutants(module: str) -> dict[tuple, list[Mutant]]:
    """All mutants of a module by their place in it."""
    tree = get_ast((ROOT / module).read_text(encoding="utf-8"))
    places = defaultdict(list)
    for name in operator_names():
        if LEFT_OUT.search(name) or get_operator(name).arguments():
            continue
        found = ((node, at) for node in ast_nodes(tree) for at in get_operator(name)().mutation_positions(node))
        for occurrence, (node, (start, end)) in enumerate(found):
            if not is_left_out(node):
                places[module, start, end].append(Mutant(module, name, occurrence, start[0]))
    return places


def start_tests(checkout: Path, tests: list[str]) -> Process:
    """The tests in a fork of this process, which has imported all that is not mutated."""
    process = get_context("fork").Process(target=run_tests, args=(checkout, tests))
    process.start()
    return process


def run_tests(checkout: Path, tests: list[str]) -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1), os.dup2(silence, 2)
    os.chdir(checkout)
    sys.path[0] = str(checkout.parent)
    sys.dont_write_bytecode = True  # two mutants of one second and one size would share it
    sys.exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", *tests])))


def copy_checkout(folder: Path) -> Path:
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in names.strip("\0").split("\0"):
        (folder / "limner" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / "limner" / name)
    return folder / "limner"


def describe(mutant: Mutant, source: str, code: str) -> str:
    changed = difflib.unified_diff(source.splitlines(), code.splitlines(), lineterm="", n=0)
    lines = [line for line in changed if line[0] in "+-" and line[:3] not in ("+++", "---")]
    return "\n".join([f"survived: {mutant.module}:{mutant.line} {mutant.operator}", *lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=26)
    parser.add_argument("--count", type=int, default=250)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--modules", nargs="+", default=list(TESTS), choices=list(TESTS), metavar="MODULE")
    options = parser.parse_args()

    rng = random.Random(options.seed)
    places = [mutants for module in options.modules for mutants in find_mutants(module).values()]
    chosen = [rng.choice(mutants) for mutants in rng.sample(places, min(options.count, len(places)))]
    print(f"seed {options.seed}: {len(chosen)} mutants, one at each of as many places out of {len(places)}", flush=True)

    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(name)
    survived: Counter[str] = Counter()
    waiting, running = chosen[::-1], {}
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(chosen), mininterval=10) as progress:
        free = [copy_checkout(Path(folder) / str(number)) for number in range(options.processes)]
        for tests in {tuple(TESTS[mutant.module]): None for mutant in chosen}:
            process = start_tests(free[0], list(tests))
            process.join()
            if process.exitcode:
                raise SystemExit(f"{' '.join(tests)} fail without any change")
        while waiting or running:
            while waiting and free:
                mutant, checkout = waiting.pop(), free.pop()
                source = (checkout / mutant.module).read_text(encoding="utf-8")
                code = mutant.code(source)
                (checkout / mutant.module).write_text(code, encoding="utf-8")
                process = start_tests(checkout, TESTS[mutant.module])
                running[process.sentinel] = process, mutant, checkout, source, code
            for sentinel in wait(list(running)):
                process, mutant, checkout, source, code = running.pop(sentinel)
                process.join()
                (checkout / mutant.module).write_text(source, encoding="utf-8")
                free.append(checkout)
                progress.update()
                if process.exitcode == 0:
                    survived[mutant.module] += 1
                    progress.write(describe(mutant, source, code))
    tried = Counter(mutant.module for mutant in chosen)
    for module, count in tried.items():
        print(f"{module:28} {count - survived[module]:4} of {count:4} killed")
    killed = len(chosen) - survived.total()
    print(f"{'all':28} {killed:4} of {len(chosen):4} killed: {killed / len(chosen):.1%}")


if __name__ == "__main__":
    main()
