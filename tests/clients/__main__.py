"""Real clients against a running server.

    python tests/clients [--python PYTHON] [--examples N] [--keep FOLDER] [STEP ...]

Run where Limner is installed. Computes what the clients have to get, starts `limner serve` on a free port of 127.0.0.1,
runs the steps against it, one after the other, each by its own runner, and ends it. The steps find the server's address in
LIMNER_URL, what they have to get in LIMNER_EXPECTED, and a folder for screenshots in LIMNER_SHOTS. The exit status is 1 if
a step failed, or the server ended by itself or answered a request with 5xx; what it logged is printed then.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
STEPS = ["python", "node", "page", "fuzz", "load"]  # in the order they are run
READY_WITHIN = 120  # seconds, on a machine that has much else to do
FULL_STOP_WITHIN = 30  # seconds from SIGTERM to the server's end
SAME_PIXELS = {"OMP_NUM_THREADS": "2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Of what is expected and of the server: sums depend on the number of threads, and a conversation that goes on is read in
another order than one read anew, which rounds to other pixels in bf16. The second variable makes fp32 the precision that is
chosen (`make test-portable`)."""
ALONE = {
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "OPENAI_AGENTS_DISABLE_TRACING": "1",
    "NO_COLOR": "1",
}
"""Of the clients: nothing is fetched from elsewhere or sent there"""
LOAD = "--users 8 --spawn-rate 4 --run-time 20s --stop-timeout 30".split()
STEP_WITHIN = 600  # seconds
LOG_SHOWN = 60  # last lines of the server's log


def steps(python: str, url: str, examples: int) -> dict[str, list[str]]:
    """The command of every step of STEPS."""
    fuzz = ["--config-file", "schemathesis.toml", "run", "--max-examples", str(examples), f"{url}/openapi.json"]
    return {
        "python": [python, "-m", "pytest", "-q", "--tb=short", "--durations=5", "."],
        "node": ["node", "--test", "openai.test.mjs", "ai_sdk.test.mjs"],
        "page": ["node", "--test", "page.test.mjs"],
        "fuzz": [python, "-m", "schemathesis.cli", *fuzz],
        "load": [python, "-m", "locust", "-f", "locustfile.py", "--headless", "--only-summary", "--host", url, *LOAD],
    }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


@contextmanager
def server(log: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address and the process of a server that is ready; it is ended, by SIGTERM, with the block.

    Raises RuntimeError if it is not ready in time, or does not end in time.
    """
    url = f"http://127.0.0.1:{(port := free_port())}"
    command = [sys.executable, "-m", "limner", "serve", "--port", str(port)]
    with log.open("w", encoding="utf-8") as written:
        process = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT)
    begun = time.monotonic()
    try:
        while not answers(f"{url}/ready"):
            if process.poll() is not None or time.monotonic() - begun > READY_WITHIN:
                raise RuntimeError(f"no server after {time.monotonic() - begun:.0f} s")
            time.sleep(0.2)
        print(f"the server was ready after {time.monotonic() - begun:.1f} s", flush=True)
        yield url, process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(FULL_STOP_WITHIN)
            except subprocess.TimeoutExpired:
                process.kill()
                raise RuntimeError(f"the server did not end within {FULL_STOP_WITHIN} s of SIGTERM") from None


def run(names: list[str], python: str, examples: int, folder: Path) -> list[str]:
    """Run the steps that are named and give what failed."""
    log, shots = folder / "server.log", folder / "shots"
    shots.mkdir(exist_ok=True)
    subprocess.run([sys.executable, str(HERE / "expected.py"), str(folder)], check=True)
    failed, ended = [], None
    try:
        with server(log) as (url, process):
            environment = os.environ | ALONE
            environment |= {"LIMNER_URL": url, "LIMNER_EXPECTED": str(folder), "LIMNER_SHOTS": str(shots)}
            for name, command in steps(python, url, examples).items():
                if name not in names or passes(name, command, environment):
                    continue
                if name == "page":  # a browser on a busy machine is late now and then
                    print("\nthe flows of the page are tried once more", flush=True)
                if name != "page" or not passes(name, command, environment):
                    failed.append(name)
            ended = process.poll() is not None and f"the server ended with status {process.returncode}"
    except RuntimeError as error:
        ended = str(error)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    if ended:
        print("\nthe end of the server's log:", *lines[-LOG_SHOWN:], sep="\n")
        failed.append(ended)
    if errors := [line for line in lines if '"level": "error"' in line or '"status": 500' in line]:
        print("\nerrors in the server's log:", *errors[:LOG_SHOWN], sep="\n")
        failed.append(f"{len(errors)} errors of the server")
    return failed


def passes(name: str, command: list[str], environment: dict[str, str]) -> bool:
    """Whether a step ends well, and in time."""
    begun = time.monotonic()
    print(f"\n{name}: {' '.join(command)}", flush=True)
    try:
        status = subprocess.run(command, cwd=HERE, env=environment, timeout=STEP_WITHIN).returncode
    except subprocess.TimeoutExpired:
        status = None
    print(f"{name} took {time.monotonic() - begun:.0f} s, status {status}", flush=True)
    return status == 0


def main() -> int:
    """Run the steps."""
    parser = argparse.ArgumentParser(prog="python tests/clients", description="Real clients against a running server.")
    parser.add_argument("names", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)}: all, if none is named")
    parser.add_argument(
        "--python", default=str(ROOT / ".venv-clients/bin/python"), help="the interpreter that has the clients"
    )
    parser.add_argument("--examples", type=int, default=25, help="requests that the fuzzer makes up for each operation")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the log, pictures and screenshots there")
    options = parser.parse_args()
    if unknown := set(options.names) - set(STEPS):
        parser.error(f"no step is called {', '.join(sorted(unknown))}; there are {', '.join(STEPS)}")
    os.environ.update(SAME_PIXELS)
    with TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        failed = run(options.names or STEPS, options.python, options.examples, folder)
    print("\nfailed: " + "; ".join(failed) if failed else "\nevery client got what it has to get")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
