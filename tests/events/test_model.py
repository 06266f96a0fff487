"""Errors of events: the codes of the documentation and those of the sources."""

import re
from pathlib import Path
from typing import Final

from service.events import splitting
from service.events.queue import storing

ROOT: Final = Path(__file__).parents[2]
SECTION: Final = "## Errors of events\n"
CODE: Final = re.compile(r'EventError\(\s*(?:"(\w+)"|([A-Z_]+\b))')


def test_every_code_is_documented() -> None:
    """`docs/codes.md` lists exactly the codes of event errors in the sources."""
    page = (ROOT / "docs" / "codes.md").read_text("utf-8")
    (section,) = page.split(SECTION)[1:]
    documented = re.findall(r"^\| `(\w+)`", section.partition("\n## ")[0], re.MULTILINE)
    sources = (ROOT / "service" / "events").rglob("*.py")
    found = [each for file in sources for each in CODE.findall(file.read_text("utf-8"))]
    used = {code or getattr(splitting, constant) for code, constant in found}
    used |= {storing.BAD_MESSAGE, storing.VALUE_REFUSED}

    assert sorted(documented) == sorted(used)
