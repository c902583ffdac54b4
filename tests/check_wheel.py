"""Builds the wheel and the sdist, installs the wheel into an empty environment and draws there: `make wheel`.

Everything happens in a temporary folder: a copy of the sources without what git ignores, so that neither a stale
`build/` nor the checkout's name and path can help, and a virtual environment without this one's packages.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
TORCH = next(line for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("torch=="))
DRAW = """
import sys
from pathlib import Path
import limner
from PIL import Image

assert Path(limner.__file__).is_relative_to(sys.prefix), limner.__file__
reply = limner.load().generate("draw a red cat", seed=1, num_inference_steps=2)
assert len(reply.images) == 1, reply
for picture in (Image.open("cat.png").convert("RGB"), reply.images[0]):
    spread = [high - low for low, high in picture.getextrema()]
    assert picture.size == (128, 128) and min(spread) > 64, f"a blank picture: {picture.size}, {spread}"
"""


def run(*command: str | Path, cwd: Path) -> None:
    """A command that sees neither the checkout nor what is installed beside this interpreter; its output on failure."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | {"HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*map(str, command)], cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}")


def files(folder: Path) -> list[str]:
    """The sources in a checkout: tracked files and new ones that git does not ignore."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.splitlines()
    return [name for name in names if (folder / name).is_file()]


def contents(wheel: Path) -> dict[str, int]:
    """The checksum of each file in a wheel; RECORD lists those of the others."""
    with zipfile.ZipFile(wheel) as archive:
        return {i.filename: i.CRC for i in archive.infolist() if not i.filename.endswith(".dist-info/RECORD")}


def main(work: Path) -> None:
    source, built, again, elsewhere = (work / name for name in ("source", "built", "again", "elsewhere"))
    names = files(ROOT)
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    run(sys.executable, "-m", "build", "--quiet", "--outdir", built, cwd=source)  # the wheel from the sdist
    run(sys.executable, "-m", "build", "--quiet", "--wheel", "--outdir", again, cwd=source)
    (wheel,), (sdist,), (other,) = built.glob("*.whl"), built.glob("*.tar.gz"), again.glob("*.whl")
    assert contents(wheel) == contents(other), "the sdist builds another wheel than the checkout"

    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    top = {f"limner/{name}" for name in ("__init__.py", "__main__.py", "py.typed")}
    expected = top | {f"limner/{n}" for n in names if n.split("/")[0] in packages}
    found = {name for name in contents(wheel) if ".dist-info/" not in name}
    assert found == expected, f"the wheel lacks {sorted(expected - found)} and has too much: {sorted(found - expected)}"
    with tarfile.open(sdist) as archive:
        folders = {member.name.split("/")[1] for member in archive if member.name.count("/") > 1}
    assert folders <= packages | {"limner.egg-info"}, f"the sdist has {sorted(folders - packages)}"

    environment = work / "environment"
    run(sys.executable, "-m", "venv", environment, cwd=work)
    elsewhere.mkdir()
    install = [
        environment / "bin/python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-compile",
        "-c",
        ROOT / "constraints.txt",
    ]
    run(*install, TORCH, cwd=elsewhere)
    run(*install, wheel, cwd=elsewhere)
    run(environment / "bin/python", "-m", "pip", "check", cwd=elsewhere)
    options = ["--steps", "2", "--seed", "1", "--out", "cat.png"]
    run(environment / "bin/limner", "draw", "a red cat", *options, cwd=elsewhere)
    run(environment / "bin/python", "-c", DRAW, cwd=elsewhere)
    print(f"{wheel.name}: {len(found)} files, {wheel.stat().st_size / 1e6:.0f} MB; installed alone, it draws")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        main(Path(folder))
