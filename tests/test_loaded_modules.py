"""Modules that a start does without: each is loaded only where it is used."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from service.settings import load
from service.storage.database import migrate
from tests.running import ROOT, SERVE, Running, ask_once, until, variables

UNUSED: Final = frozenset(
    {
        *("adbc_driver_manager", "alembic", "asyncpg", "flask", "gunicorn", "nats"),
        *("opentelemetry.exporter", "opentelemetry.sdk", "pyarrow", "redis"),
        *("rich.progress", "service.observability.span_export"),
        *("service.server.workers", "sqlalchemy.dialects.postgresql"),
        *("typer.rich_utils", "ultravin"),
    }
)


@contextmanager
def running(report: Path, log: Path, **settings: object) -> Iterator[Running]:
    """Serve, with a report of the imports in standard error."""
    with (
        report.open("wb") as errors,
        log.open("wb") as lines,
        subprocess.Popen(  # noqa: S603
            SERVE,
            stdout=lines,
            stderr=errors,
            cwd=ROOT,
            env=os.environ | variables(settings) | {"PYTHONPROFILEIMPORTTIME": "1"},
        ) as process,
    ):
        try:
            yield Running(process, 0, log)
        finally:
            process.kill()


async def test_start_loads_no_feature_that_is_off(tmp_path: Path) -> None:
    """A service on a migrated SQLite file answers without the modules of others."""
    url = f"sqlite+aiosqlite:///{tmp_path}/service.db"
    await migrate(load(options={"storage": {"url": url}}).settings.storage)
    report = tmp_path / "imports"
    settings = {"events__enabled": True, "health__warm_up": True, "storage__url": url}
    with running(report, tmp_path / "log", **settings) as service:
        await until(lambda: bool(service.events("service.started")))
        (started,) = service.events("service.started")
        answer = await ask_once(int(started["url.full"].rpartition(":")[2]), "/usage")
    assert answer.status == 200
    lines = report.read_text().splitlines()
    loaded = {line.rpartition("|")[2].strip() for line in lines}
    assert "service.usage.refresh" in loaded
    assert sorted(loaded & UNUSED) == []
