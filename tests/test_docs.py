"""The documentation against the project: its links, commands and settings."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import pytest
import typer

from service.command_line import cli
from service.settings import Settings
from service.web.system import VERSION
from tests.observability.test_log_events import documented_events

ROOT: Final = Path(__file__).parent.parent
PAGES: Final = sorted(
    [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *ROOT.glob("benchmarks/**/*.md"),
        *ROOT.glob("clients/*/*.md"),
    ]
)
SETTINGS_PAGE: Final = ROOT / "docs" / "settings.md"
FILES: Final = {"usage.log", "vehicles.parquet"}

FENCED: Final = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
EXTERNAL: Final = re.compile(r"[a-z]+:")
HEADING: Final = re.compile(r"^#+ (.+)$", re.MULTILINE)
CODE: Final = re.compile(r"`([^`\n]+)`")

each_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: str(page.relative_to(ROOT))
)


class Link(NamedTuple):
    """A relative link: the file, and the anchor of a heading in it, or nothing."""

    file: Path
    anchor: str


def read(page: Path) -> str:
    """Return the text of a page."""
    return page.read_text(encoding="utf-8")


def links(page: Path) -> Iterator[Link]:
    """Every relative link and image of a page, resolved."""
    for target in LINK.findall(FENCED.sub("", read(page))):
        if not EXTERNAL.match(target):
            name, _, anchor = target.partition("#")
            yield Link((page.parent / name).resolve() if name else page, anchor)


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of a page's headings."""
    headings = HEADING.findall(FENCED.sub("", read(page)))
    words = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {each.strip().replace(" ", "-") for each in words}


def code_in(page: Path) -> Iterator[str]:
    """Every code span of a page, and every line of its code blocks."""
    text = read(page)
    yield from CODE.findall(FENCED.sub("", text))
    for block in FENCED.findall(text):
        yield from block.splitlines()


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    """Each relative link names a file that exists, and a heading that it has."""
    for link in links(page):
        assert link.file.exists(), link.file
        if link.anchor:
            assert link.anchor in anchors(link.file), f"{link.file}#{link.anchor}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    """A reader who follows links from the README finds every page of `docs/`."""
    reached, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        reached.add(page)
        found = {each.file for each in links(page) if each.file.suffix == ".md"}
        waiting += {each for each in found - reached if each.exists()}

    assert set((ROOT / "docs").rglob("*.md")) - reached == set()


def test_the_version_is_the_current_one() -> None:
    """The image's tag and the changelog name the version of this project."""
    tags = {
        tag
        for page in PAGES
        for tag in re.findall(r"copilot-usage:(\d[\w.]+)", read(page))
    }

    assert tags == {VERSION}
    assert f"\n## [{VERSION}]" in read(ROOT / "CHANGELOG.md")


@each_page
def test_every_make_target_exists(page: Path) -> None:
    """A page names no `make` target that the Makefile lacks."""
    makefile = read(ROOT / "Makefile")
    targets = set(re.findall(r"^([a-z.-]+):", makefile, re.MULTILINE))
    named = {
        found[1]
        for code in code_in(page)
        if (found := re.match(r"(?:\$ )?make ([a-z.-]+)", code))
    }

    assert named <= targets


@each_page
def test_every_command_exists(page: Path) -> None:
    """A page names no subcommand that `copilot-usage` lacks."""
    commands = typer.main.get_command(cli).commands  # type: ignore[attr-defined]
    named = {
        command
        for code in code_in(page)
        for command in re.findall(r"copilot-usage ([a-z][a-z-]+)\b(?!:)", code)
    }

    assert named <= commands.keys()


def test_every_revision_of_the_schema_is_listed() -> None:
    """An operator who rolls back finds what each revision has added."""
    versions = ROOT / "service" / "storage" / "migrations" / "versions"
    revisions = sorted(file.name[:4] for file in versions.glob("[0-9]*.py"))
    page = read(ROOT / "docs" / "operate.md")
    table = page.partition("| revision | of version | adds |")[2].partition("\n\n")[0]

    listed = re.findall(r"`(\d{4})`", table)
    assert listed == revisions


@each_page
def test_every_setting_exists(page: Path) -> None:
    """A dotted name that begins with a section is a setting, a log event or a file."""
    sections = {
        section.name: {key.name for key in msgspec.structs.fields(section.type)}
        for section in msgspec.structs.fields(Settings)
    }
    settings = {f"{name}.{key}" for name, keys in sections.items() for key in keys}
    named = {
        found[0]
        for code in code_in(page)
        if (found := re.match(r"([a-z]+)\.[a-z_.]+(?= = |$)", code))
        and found[1] in sections
    }

    assert named - settings - documented_events().keys() - FILES == set()


def test_the_settings_are_as_shipped() -> None:
    """Each row of the settings has the shipped comment and default."""
    shipped = read(ROOT / "config" / "default.toml")
    rows = re.findall(
        r"^\| `(\w+)\.(\w+)` \| (.+) \| `(.+)` \|$", read(SETTINGS_PAGE), re.M
    )

    assert len(rows) > 10
    for section, key, meaning, default in rows:
        body = shipped.partition(f"[{section}]")[2].partition("\n[")[0]
        comment = body.partition(f"\n{key} = {default}\n")[0]
        told = " ".join(line.removeprefix("# ") for line in comment.split("\n"))
        assert told.endswith(f"{meaning}."), f"{section}.{key}"
