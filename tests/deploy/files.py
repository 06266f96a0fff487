"""The files of `deploy/`, and what they may name: settings and endpoints."""

import re
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from service.app import create_app
from service.settings import Settings, load

ROOT: Final = Path(__file__).parents[2]
DEPLOY: Final = ROOT / "deploy"
TEXTS: Final = sorted(
    file
    for file in DEPLOY.rglob("*")
    if file.is_file() and file.suffix != ".json" and "secrets" not in file.parts
)
PAGES: Final = (ROOT / "docs" / "deploy.md", ROOT / "docs" / "backup.md")
SECTIONS: Final = {
    section.name: {key.name for key in msgspec.structs.fields(section.type)}
    for section in msgspec.structs.fields(Settings)
}


def read_yaml(name: str) -> Any:
    """Return the document of a YAML file below `deploy/`."""
    return yaml.safe_load((DEPLOY / name).read_bytes())


def endpoints() -> set[str]:
    """Return the paths of all endpoints, with their parameters in braces."""
    routes = create_app(load().settings).router.routes()
    return {route.resource.canonical for route in routes if route.resource}


def seconds(text: str) -> float:
    """Return a duration of Compose or systemd, such as `30s` or `5min`, in seconds."""
    number, unit = re.fullmatch(r"(\d+)(s|min|h|)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"": 1, "s": 1, "min": 60, "h": 3_600}[unit]
