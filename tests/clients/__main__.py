"""Real clients against a running server.

    python tests/clients [--python PYTHON] [--keep FOLDER] [STEP ...]

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


def steps(python: str, url: str) -> dict[str, list[str]]:
    """The command of every step, in the order they are run."""
    return {
        "python": [python, "-m", "pytest", "-q", "--tb=short", "--durations=5", "."],
        "node": ["node", "--test", "openai.test.mjs", "ai_sdk.test.mjs"],
        "page": ["node", "--test", "page.test.mjs"],
        "fuzz": [python, "-m", "schemathesis.cli", "--config-file", "schemathesis.toml", "run", f"{url}/openapi.json"],
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


def run(names: list[str], python: str, folder: Path) -> list[str]:
    """Run the steps that are named, or all, and give what failed."""
    log, shots = folder / "server.log", folder / "shots"
    shots.mkdir(exist_ok=True)
    subprocess.run([sys.executable, str(HERE / "expected.py"), str(folder)], check=True)
    failed = []
    try:
        with server(log) as (url, process):
            environment = (
                os.environ
                | ALONE
                | {
                    "LIMNER_URL": url,
                    "LIMNER_EXPECTED": str(folder),
                    "LIMNER_SHOTS": str(shots),
                }
            )
            for name, command in steps(python, url).items():
                if names and name not in names:
                    continue
                begun = time.monotonic()
                print(f"\n{name}: {' '.join(command)}", flush=True)
                try:
                    status: int | str = subprocess.run(
                        command, cwd=HERE, env=environment, timeout=STEP_WITHIN
                    ).returncode
                except subprocess.TimeoutExpired:
                    status = f"none after {STEP_WITHIN} s"
                print(f"{name} took {time.monotonic() - begun:.0f} s, status {status}", flush=True)
                failed += [name] if status else []
            if process.poll() is not None:
                failed.append(f"the server, which ended with status {process.returncode}")
    except RuntimeError as error:
        failed.append(str(error))
    written = log.read_text(encoding="utf-8", errors="replace")
    if "Traceback (most recent call last)" in written:
        failed.append("a request that ended in a traceback of the server")
    if failed:
        print(f"\nthe server's log, its last {LOG_SHOWN} lines:", *written.splitlines()[-LOG_SHOWN:], sep="\n")
    return failed


def main() -> int:
    """Run the steps."""
    parser = argparse.ArgumentParser(prog="python tests/clients", description="Real clients against a running server.")
    parser.add_argument("names", nargs="*", metavar="STEP", help=f"{', '.join(steps('', ''))}: all, if none is named")
    parser.add_argument(
        "--python", default=str(ROOT / ".venv-clients/bin/python"), help="the interpreter that has the clients"
    )
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="keep the log, pictures and screenshots there")
    options = parser.parse_args()
    if unknown := set(options.names) - set(steps("", "")):
        parser.error(f"no step is called {', '.join(sorted(unknown))}; there are {', '.join(steps('', ''))}")
    os.environ.update(SAME_PIXELS)
    with TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        failed = run(options.names, options.python, folder)
    print("\nfailed: " + "; ".join(failed) if failed else "\nevery client got what it has to get")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
