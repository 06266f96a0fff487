"""The Dockerfile as the replay reads it, and the layers that it stores."""

import re
from pathlib import Path, PurePath
from typing import Final

import pytest

from scripts import dockerfile, image
from scripts.dockerfile import BrokenImageError, Stage, is_ignored, read_stages
from scripts.image import Image

ROOT: Final = Path(__file__).parents[2]
STAGES: Final = """
# A comment
FROM python:3.13 AS build
WORKDIR /app/src
COPY lock ./
RUN echo >>{runs}/lock; cat lock > \\
    /app/installed
COPY source scripts/
RUN echo >>{runs}/source; cp scripts/source /app/wheel

FROM python:3.13
ARG VERSION=unknown
COPY --from=build /app /app/all
ENV PATH=/app/bin:$PATH
LABEL title="a title" version="$VERSION"
ENTRYPOINT ["serve"]
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout whose name has a space, with what the Dockerfile above copies."""
    folder = tmp_path / "a checkout"
    folder.mkdir()
    for name in ("lock", "source"):
        (folder / name).write_text(name)
    (folder / ".dockerignore").write_text("*\n!lock\n!source\n")
    monkeypatch.setattr(dockerfile, "ROOT", folder)
    monkeypatch.setattr(image, "ROOT", folder)
    return folder


def built(checkout: Path) -> Image:
    """The image that a replay makes; `runs` has a line for each command carried out."""
    runs = checkout.parent / "runs"
    runs.mkdir(exist_ok=True)
    made = Image(checkout / ".cache", None, {"VERSION": "1.2"})
    made.build(read_stages(STAGES.format(runs=runs)))
    return made


def count(checkout: Path, name: str) -> int:
    """The number of times that a command was carried out."""
    return len((checkout.parent / "runs" / name).read_text())


def test_an_image_has_what_its_stages_made(checkout: Path) -> None:
    """Files, labels, variables and commands are those of the last stage."""
    made = built(checkout)
    assert (made.root / "app/all/installed").read_text() == "lock"
    assert (made.root / "app/all/wheel").read_text() == "source"
    assert made.labels == {"title": "a title", "version": "1.2"}
    assert made.env["PATH"].startswith(f"{made.root}/app/bin:")
    assert made.argv == {"ENTRYPOINT": ["serve"]}


def test_a_change_of_the_source_keeps_the_dependencies(checkout: Path) -> None:
    """A layer is made anew where it, or one before it, has changed."""
    built(checkout)
    built(checkout)
    assert (count(checkout, "lock"), count(checkout, "source")) == (1, 1)
    (checkout / "source").write_text("new")
    made = built(checkout)
    assert (count(checkout, "lock"), count(checkout, "source")) == (1, 2)
    assert (made.root / "app/all/wheel").read_text() == "new"
    (checkout / "lock").write_text("new")
    made = built(checkout)
    assert (count(checkout, "lock"), count(checkout, "source")) == (2, 3)
    assert (made.root / "app/all/installed").read_text() == "new"


def test_a_command_that_fails_breaks_the_image(checkout: Path) -> None:
    """Its output is in the error, and no layer of it is stored."""
    made = Image(checkout / ".cache", None, {})
    stages = read_stages("FROM python AS a\nRUN echo words; exit 3")
    with pytest.raises(BrokenImageError, match="words"):
        made.build(stages)
    with pytest.raises(BrokenImageError, match="words"):
        made.build(stages)


@pytest.mark.parametrize(
    "text, reason",
    [
        ("RUN true", "before the first FROM"),
        ("FROM python\nSHELL sh", "SHELL is not known"),
        ("FROM python\nCMD serve", "not in exec form"),
        ("FROM python\nCOPY secret .", "leaves secret out"),
        ("FROM python AS a\nRUN true\nENV A=b", "must end with a RUN"),
    ],
)
def test_what_the_replay_does_not_know(text: str, reason: str, checkout: Path) -> None:
    """An instruction that it cannot carry out is an error, and is not passed over."""
    with pytest.raises(BrokenImageError, match=reason):
        Image(checkout / ".cache", None, {}).build(read_stages(text))


@pytest.mark.parametrize(
    "path, ignored",
    [
        ("service/app.py", False),
        ("service/web/static/dashboard/index.html", True),
        ("service/__pycache__/app.pyc", True),
        ("scripts/check_environment.py", False),
        ("scripts/check_locks.py", True),
        ("tests/conftest.py", True),
    ],
)
def test_the_build_context(path: str, ignored: bool) -> None:  # noqa: FBT001
    """Docker is sent what the image is built from, and nothing else."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    assert is_ignored(PurePath(path), patterns) is ignored


@pytest.mark.parametrize(
    "stage", read_stages((ROOT / "Dockerfile").read_text()), ids=lambda each: each.name
)
def test_base_images_are_named_exactly(stage: Stage) -> None:
    """A tag that moves would make another image out of the same commit."""
    assert re.fullmatch(
        r"(node|python):\d+\.\d+\.\d+-(slim-)?trixie(-slim)?", stage.base
    )
