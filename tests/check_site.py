"""Builds the documentation into build/site and looks at what came out: `make docs`.

The build has to be free of warnings; no page may load anything from another host; every link and anchor inside the site has
to lead somewhere. The API reference is read from a copy of the sources in a folder called `limner`, whatever the checkout is
called.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).parent.parent
SITE = ROOT / "build" / "site"
LOADS = {
    "audio": "src",
    "embed": "src",
    "iframe": "src",
    "img": "src",
    "input": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "track": "src",
    "use": "href",
    "video": "src",
}
"""What a browser fetches by itself, and the attribute that says from where"""
IDLE = {
    "unpkg.com": 'class="mermaid',  # the theme fetches Mermaid where a page has such a diagram
    "api.github.com": 'data-md-component="source"',  # and counts stars where a page names its repository
    "gitlab.com": 'data-md-component="source"',
}
"""Hosts named in the theme's scripts, and what a page would have to hold for them to be asked"""
STRING = re.compile(r"""["'`](?:https?:)?//([\w-]+(?:\.[\w-]+)+)""")
"""An address in a script's string; those in comments are read by people alone"""
NAMESPACES = {"www.w3.org"}
"""Hosts in names of XML's namespaces, which nothing is fetched from"""


class Page(HTMLParser):
    """The ids, the links and the resources of one page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.resources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Called by the parser for each tag."""
        given = {name: value or "" for name, value in attrs}
        self.ids |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if (resource := given.get(LOADS.get(tag, ""))) and given.get("rel") not in ("canonical", "next", "prev"):
            self.resources.append(resource)
        self.resources += re.findall(r"url\(([^)]+)\)", given.get("style", ""))
        self.resources += [entry.split()[0] for entry in given.get("srcset", "").split(",") if entry.strip()]


def is_elsewhere(address: str) -> bool:
    """Whether an address names another host."""
    return bool(urlsplit(address.strip("\"' ")).netloc)


def outside_resources(pages: dict[Path, Page]) -> Iterator[str]:
    """What pages, style sheets and scripts would fetch from other hosts."""
    for path, page in pages.items():
        yield from (f"{path.relative_to(SITE)} loads {address}" for address in page.resources if is_elsewhere(address))
    for sheet in SITE.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        for address in re.findall(r"(?:url\(|@import )([^);]+)", text):
            if is_elsewhere(address):
                yield f"{sheet.relative_to(SITE)} loads {address}"
    everything = "".join(path.read_text(encoding="utf-8") for path in pages)
    for script in SITE.rglob("*.js"):
        for host in set(STRING.findall(script.read_text(encoding="utf-8"))) - NAMESPACES:
            if host not in IDLE or IDLE[host] in everything:
                yield f"{script.relative_to(SITE)} may ask {host}"


def broken_links(pages: dict[Path, Page]) -> Iterator[str]:
    """Links and resources inside the site that lead nowhere."""
    for path, page in pages.items():
        if path.name == "404.html":  # shown at any address, so its links begin at the site's root
            continue
        for link in {*page.links, *page.resources}:
            target = urlsplit(link)
            if target.scheme or target.netloc:
                continue
            file = (path.parent / unquote(target.path)).resolve() if target.path else path
            file = file / "index.html" if file.is_dir() else file
            if not file.is_file():
                yield f"{path.relative_to(SITE)}: {link} is not there"
            elif target.fragment and file in pages and unquote(target.fragment) not in pages[file].ids:
                yield f"{path.relative_to(SITE)}: {link} has no such place"


def build(sources: Path) -> str:
    """Build the site, the API reference from the package in ``sources``; returns what was said. Exits with it on failure."""
    environment = os.environ | {"LIMNER_SOURCES": str(sources), "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--clean", "--site-dir", str(SITE)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode or "WARNING" in done.stdout:
        sys.exit(f"mkdocs build --strict failed:\n{done.stdout}")
    return done.stdout


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        for package in (ROOT, *(path.parent for path in ROOT.glob("*/__init__.py"))):
            for source in package.glob("*.py") if package == ROOT else package.rglob("*.py"):
                copy = Path(folder) / "limner" / source.relative_to(ROOT)
                copy.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, copy)
        build(Path(folder))
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in SITE.resolve().rglob("*.html")}
    wrong = sorted([*outside_resources(pages), *broken_links(pages)])
    if wrong:
        sys.exit("\n".join(wrong))
    links = sum(len(page.links) for page in pages.values())
    print(f"{len(pages)} pages, {links} links; nothing is loaded from another host: {SITE / 'index.html'}")


if __name__ == "__main__":
    main()
