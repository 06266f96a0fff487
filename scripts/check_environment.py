"""Check that an environment has all that its packages require, extras included.

    check_environment.py [--path SITE_PACKAGES] ROOT...

A root is `project`, for the dependencies in pyproject.toml, or a dependency group
of that file.

`pip check` does not look at extras: a lock without what `redis[hiredis]` requires
installs without a word. Here every requirement whose marker holds is followed, from the
roots and from each installed package. Only `packaging` is imported, so each environment
can check itself, or another one of the same Python.
"""

import argparse
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

PYPROJECT: Final = Path(__file__).resolve().parent.parent / "pyproject.toml"
PROJECT: Final = "project"
NO_EXTRA: Final = ""


class Package(NamedTuple):
    """One installed package, and its requirements with their markers."""

    version: Version
    requires: tuple[Requirement, ...]


Packages = Mapping[NormalizedName, Package]


def installed(path: list[str] | None = None) -> dict[NormalizedName, Package]:
    """Read the packages of `path`; those of this interpreter if it is None."""
    found = distributions() if path is None else distributions(path=path)
    return {
        canonicalize_name(each.metadata["Name"]): Package(
            Version(each.version), tuple(map(Requirement, each.requires or ()))
        )
        for each in found
    }


def requirements_of(roots: Iterable[str]) -> list[Requirement]:
    """Read the requirements of these roots in pyproject.toml."""
    content = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))
    groups = {
        PROJECT: content["project"]["dependencies"],
        **content["dependency-groups"],
    }
    return [Requirement(each) for root in roots for each in _group(groups, root)]


def _group(groups: Mapping[str, list[Any]], name: str) -> Iterator[str]:
    for each in groups[name]:
        if isinstance(each, str):
            yield each
        else:
            yield from _group(groups, each["include-group"])


def find_problems(
    packages: Packages,
    roots: Iterable[Requirement],
    environment: Mapping[str, str] | None = None,
) -> list[str]:
    """List what is missing or has a wrong version, each problem once.

    `environment` has the values of PEP 508 markers; those of this interpreter if None.
    """
    values = environment or cast("Mapping[str, str]", default_environment())
    todo = list(_applying(PROJECT, roots, NO_EXTRA, values))
    for name, package in packages.items():
        todo += _applying(name, package.requires, NO_EXTRA, values)
    problems: dict[str, None] = {}
    followed: set[tuple[NormalizedName, str]] = set()
    for origin, requirement in todo:
        name = canonicalize_name(requirement.name)
        if (problem := _problem(requirement, packages.get(name))) is not None:
            problems[f"{origin} requires {problem}"] = None
            continue
        for extra in {(name, each) for each in requirement.extras} - followed:
            followed.add(extra)
            # The outer loop goes on to what is appended.
            todo += _applying(
                f"{name}[{extra[1]}]", packages[name].requires, extra[1], values
            )
    return list(problems)


def _applying(
    origin: str,
    requirements: Iterable[Requirement],
    extra: str,
    values: Mapping[str, str],
) -> Iterator[tuple[str, Requirement]]:
    for each in requirements:
        if each.marker is None or each.marker.evaluate({**values, "extra": extra}):
            yield origin, each


def _problem(requirement: Requirement, package: Package | None) -> str | None:
    wanted = f"{requirement.name}{requirement.specifier}"
    if package is None:
        return f"{wanted}, which is missing"
    if not requirement.specifier.contains(package.version, prereleases=True):
        return f"{wanted}, and has {package.version}"
    return None


def main() -> None:
    """Check an environment; end with status 1 and a line for each problem."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--path", help="its site-packages; this Python's by default")
    parser.add_argument("roots", nargs="+", metavar="ROOT", help="project, or a group")
    chosen = parser.parse_args()
    packages = installed(None if chosen.path is None else [chosen.path])
    if problems := find_problems(packages, requirements_of(chosen.roots)):
        sys.exit("\n".join(problems))


if __name__ == "__main__":
    main()
