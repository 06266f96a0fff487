"""Errors of events are stored as they are answered, and each code is documented."""

import inspect
import re
from pathlib import Path
from typing import Final

import msgspec

from service.events import reading, schemas
from service.events.model import EventError, Receipt, Result, encode_errors

ROOT: Final = Path(__file__).parents[2]
SECTION: Final = "## Errors of events\n"


def test_errors_survive_being_stored() -> None:
    """They are read again as what they were."""
    errors = (
        EventError("schema", "/data/a~1b", 'é "quoted"'),
        EventError("missing", "", ""),
    )

    stored = encode_errors(errors)

    assert msgspec.json.decode(stored, type=tuple[EventError, ...]) == errors


def test_a_result_without_errors_says_nothing_of_them() -> None:
    """Whoever sent what is right reads two fields for each event."""
    receipt = Receipt(1, 0, 0, [Result("a", "accepted")])

    assert msgspec.json.encode(receipt) == (
        b'{"accepted":1,"duplicates":0,"failed":0,'
        b'"results":[{"id":"a","status":"accepted"}]}'
    )


def test_every_code_is_documented() -> None:
    """`docs/codes.md` lists each code that an event's error may have, and no other."""
    page = (ROOT / "docs" / "codes.md").read_text("utf-8")
    (section,) = page.split(SECTION)[1:]
    documented = re.findall(r"^\| `(\w+)`", section.partition("\n## ")[0], re.MULTILINE)
    sources = map(inspect.getsource, (reading, schemas))
    used = set(re.findall(r'EventError\(\s*"(\w+)"', "".join(sources)))

    assert sorted(documented) == sorted(used)
