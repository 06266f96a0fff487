"""Read a Dockerfile and .dockerignore as far as ours use them."""

import json
import shutil
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path, PurePath
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
FROM_STAGE: Final = "--from="


class BrokenImageError(Exception):
    """The image would not build, start or stop as it should."""


class Instruction(NamedTuple):
    """One instruction: its name, and its arguments on one line."""

    name: str
    arguments: str


class Stage(NamedTuple):
    """One stage: its base image, its name if it has one, and its instructions."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]


def read_stages(dockerfile: str) -> list[Stage]:
    """Split a Dockerfile into its stages."""
    stages: list[Stage] = []
    for each in _instructions(dockerfile):
        if each.name == "FROM":
            base, _, name = each.arguments.partition(" AS ")
            stages.append(Stage(base, name, ()))
        elif not stages:
            raise BrokenImageError(f"{each.name} before the first FROM")
        else:
            *before, last = stages
            done = (*last.instructions, each)
            stages = [*before, last._replace(instructions=done)]
    return stages


def _instructions(dockerfile: str) -> Iterator[Instruction]:
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line:
            name, _, arguments = line.partition(" ")
            yield Instruction(name, arguments)


def exec_form(arguments: str) -> list[str]:
    """Read a command's JSON list; a shell in between would swallow signals."""
    _, bracket, rest = arguments.partition("[")
    if not bracket:
        raise BrokenImageError(f"not in exec form: {arguments}")
    command: list[str] = json.loads(bracket + rest)
    return command


def is_ignored(path: PurePath, patterns: Sequence[str]) -> bool:
    """Match a path against .dockerignore, where the last match decides."""
    ignored = False
    for pattern in patterns:
        bare = pattern.removeprefix("!")
        if any(fnmatch(str(part), bare) for part in (path, *path.parents)):
            ignored = bare == pattern
    return ignored


def context_files(source: str) -> list[Path]:
    """List the files of the checkout that Docker would copy for a source."""
    patterns = (ROOT / ".dockerignore").read_text().splitlines()
    if is_ignored(PurePath(source), patterns):
        raise BrokenImageError(f".dockerignore leaves {source} out")
    return list(_walk(ROOT / source, patterns))


def _walk(path: Path, patterns: Sequence[str]) -> Iterator[Path]:
    if is_ignored(path.relative_to(ROOT), patterns):
        return
    if not path.is_dir():
        yield path
        return
    for entry in sorted(path.iterdir()):
        yield from _walk(entry, patterns)


def copy_context(source: str, target: Path) -> None:
    """Copy a source of the checkout to a target, as Docker does."""
    origin = ROOT / source
    for file in context_files(source):
        if origin.is_dir():
            destination = target / file.relative_to(origin)
        else:
            destination = target / file.name if target.is_dir() else target
        destination.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, destination)
