"""The whole API as its OpenAPI document describes it, fuzzed by schemathesis.

Every operation is sent what the document allows and what it does not, over a socket and
with a key. Every answer must be documented, in status and in form.
"""

import asyncio
import os
import sys
from pathlib import Path
from typing import Final

from service.keys.store import add_key
from service.settings import SCOPES
from service.storage.database import open_database
from service.web.health import TRAFFIC
from tests.conftest import MakeClient, storage_at

COMMAND: Final = Path(sys.executable).with_name("schemathesis")
GIVE_UP_S: Final = 1_800.0
"""Many times what its thousands of requests take on a slow machine."""
SEED: Final = "20240501"
EXAMPLES: Final = "25"
PHASES: Final = "examples,coverage,fuzzing,stateful"
CONFIGURATION: Final = """
[checks]
# A cursor, a plan or a moment is more than the string that a schema can say.
positive_data_acceptance.enabled = false
# It leaves the good key of `--header` in; `tests/events/test_api.py` takes it away.
ignored_auth.enabled = false

[[operations]]
include-name = ["POST /events", "POST /events/", "POST /api/v1/events"]
# An event that breaks its schema is stored as a failed one, and the request accepted.
checks.negative_data_rejection.enabled = false
"""


async def test_every_answer_is_as_documented(
    client: MakeClient, tmp_path: Path
) -> None:
    """Statuses, media types, headers and bodies are those of the document, always."""
    configuration = tmp_path / "schemathesis.toml"
    configuration.write_text(CONFIGURATION)
    storage = storage_at(f"sqlite+aiosqlite:///{tmp_path}/events.db")
    async with open_database(storage) as database:
        key = await add_key(database, "fuzzer", SCOPES)
    service = await client(
        events={"enabled": True},
        vehicles={"enabled": True},
        storage={"url": storage.url},
    )
    # Requests for the feed do not wait for events that nobody sends.
    assert service.app is not None
    for end_waits in service.app[TRAFFIC].on_stop:
        end_waits()
    process = await asyncio.create_subprocess_exec(
        *(
            COMMAND,
            "--config-file",
            configuration,
            "run",
            str(service.make_url("/openapi.json")),
        ),
        *("--phases", PHASES, "--max-examples", EXAMPLES, "--seed", SEED),
        *("--header", f"X-API-Key: {key}", "--generation-database", "none"),
        *("--no-color", "--continue-on-failure"),
        # Nothing of ours runs in that process.
        env={k: v for k, v in os.environ.items() if not k.startswith("COVERAGE_")},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        cwd=tmp_path,
    )
    try:
        async with asyncio.timeout(GIVE_UP_S):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == 0, output.decode()
