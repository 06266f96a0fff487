"""The numbers of `docs/deploy.md` against the code, and the image against its users."""

import re
from typing import Final

from scripts.dockerfile import read_stages
from service.settings import load
from service.storage.uses import UseLimits, connections_of
from service.vehicles.export import MAX_EXPORTS
from service.vehicles.parquet import BLOCKS_AHEAD
from tests.deploy.files import DEPLOY, PAGES, ROOT, read_yaml

PAGE: Final = PAGES[0].read_text(encoding="utf-8")
WORKERS: Final = 2
COMMANDS: Final = 10
"""Connections for commands and backups."""
LIMIT: Final = 200
"""PostgreSQL's `max_connections` in Compose."""


def connections() -> int:
    """Return the maximum number of connections of one worker to PostgreSQL."""
    settings = load().settings
    limits = UseLimits(1.0, event_queries=settings.events.max_queries)
    exports = MAX_EXPORTS * BLOCKS_AHEAD
    return sum(connections_of(settings.storage, limits).values()) + exports


def test_connections_to_postgresql() -> None:
    """The page has the sum of the pools; its examples follow from the manifests."""
    autoscaler = read_yaml("kubernetes/base/horizontalpodautoscaler.yaml")
    pods = autoscaler["spec"]["maxReplicas"] + 2
    rows = re.findall(r"^\| .*workers.*\| (\d+) \| (\d+)", PAGE, re.MULTILINE)

    assert f"| {connections()} connections for each worker," in PAGE
    expected = [2 * WORKERS, pods * WORKERS]
    assert [int(workers) for workers, _ in rows] == expected
    assert [int(needed) for _, needed in rows] == [
        workers * connections() + COMMANDS for workers in expected
    ]
    postgresql = read_yaml("compose.production.yaml")["services"]["postgres"]
    assert f"max_connections={LIMIT}" in postgresql["command"]
    assert int(rows[0][1]) <= LIMIT
    for name in ("kubernetes/base", "kubernetes/overlays/example", "systemd"):
        file = DEPLOY / name / "copilot-usage.toml"
        assert load(file).settings.server.workers == WORKERS


def test_the_image_fits_the_files() -> None:
    """User, port and command of the Dockerfile are those of Compose and Kubernetes."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    pod = read_yaml("kubernetes/base/deployment.yaml")["spec"]["template"]["spec"]
    security = pod["securityContext"]
    port = load().settings.server.port

    assert read_stages(text)
    assert f"\nUSER {security['runAsUser']}:{security['runAsGroup']}\n" in text
    assert f"\nEXPOSE {port}\n" in text
    assert '\nENTRYPOINT ["copilot-usage"]\n' in text
    for container in [*pod["initContainers"], *pod["containers"]]:
        assert "command" not in container
