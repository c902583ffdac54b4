"""Runs the steps of the Dockerfile without Docker, in an empty environment, and asks what they serve: `make image-steps`.

What only an image has is not tried: its base, its user and its ports.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from check_wheel import ROOT, files

KEY = "a-key"


def steps(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile and what follows each."""
    lines = re.sub(r"\\\n", "", text).splitlines()
    return [(name, rest) for name, _, rest in (line.partition(" ") for line in lines) if name.isupper()]


def is_sent(name: str, ignored: list[str]) -> bool:
    """Whether a file of the checkout is part of what Docker is given."""
    kept = True
    for pattern in ignored:
        wanted = pattern.removeprefix("!").removeprefix("**/")
        parts = name.split("/") if "**" in pattern else name.split("/")[:1]
        if any(fnmatch(part, wanted) for part in parts):
            kept = pattern.startswith("!")
    return kept


def ask(port: int, path: str, key: str) -> str:
    """What a request without a body and, for a chat, with one is answered."""
    body = {"model": "nano", "messages": [{"role": "user", "content": "draw a red cat"}], "num_inference_steps": 2}
    data = [] if "chat" not in path else ["-d", json.dumps(body), "-H", "Content-Type: application/json"]
    command = ["curl", "-s", "-H", f"Authorization: Bearer {key}", *data, f"http://127.0.0.1:{port}{path}"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main(work: Path) -> None:
    source, environment = work / "src", work / "environment"
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for name in files(ROOT):
        if is_sent(name, ignored):
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    variables |= {"PATH": f"{environment / 'bin'}:{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
    found = steps((ROOT / "Dockerfile").read_text())
    for name, rest in found:
        if name == "ENV":
            variables |= dict(pair.split("=", 1) for pair in shlex.split(rest))
        elif name == "RUN" and rest.startswith("pip "):
            # the registry of this machine is asked for the same version in place of the one that has builds for CPUs alone
            command = rest.replace("/src", str(source)).replace("--index-url $TORCH_INDEX ", "")
            subprocess.run(command, shell=True, check=True, cwd=work, env=variables, stdout=subprocess.DEVNULL)
    last = dict(found)
    command = json.loads(last["ENTRYPOINT"])
    refused = subprocess.run(command, env=variables, cwd=work, capture_output=True, text=True)
    assert refused.returncode == 2 and "set a key" in refused.stderr, (refused.returncode, refused.stderr)
    command = [*(word.replace("0.0.0.0", "127.0.0.1") for word in command), "--port", "0"]
    with subprocess.Popen(command, env=variables | {"LIMNER_API_KEY": KEY}, cwd=work, stdout=subprocess.PIPE) as server:
        try:
            assert server.stdout is not None
            port = int(server.stdout.readline().rsplit(b":", 1)[1].split(b"/")[0])
            health = last["HEALTHCHECK"].partition(" CMD ")[2].replace("8000", str(port))
            subprocess.run(health, shell=True, check=True, env=variables)
            assert "invalid_api_key" in ask(port, "/v1/models", "another"), ask(port, "/v1/models", "another")
            message = json.loads(ask(port, "/v1/chat/completions", KEY))["choices"][0]["message"]
            assert message["images"], message
            server.send_signal(signal.SIGTERM)
            assert server.wait(60) == 0
        finally:
            server.kill()
    installed = sum(path.stat().st_size for path in environment.rglob("*") if path.is_file() and not path.is_symlink())
    print(
        f"the steps of the Dockerfile ran: {installed / 2**30:.1f} GiB installed; without a key it refuses, with one it draws"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
