"""The documentation of error codes."""

import inspect
import re
from pathlib import Path
from typing import Final

from service.events import parsing, schemas, validation

ROOT: Final = Path(__file__).parents[2]
SECTION: Final = "## Errors of events\n"


def test_every_code_is_documented() -> None:
    """`docs/codes.md` lists exactly the codes of event errors in the sources."""
    page = (ROOT / "docs" / "codes.md").read_text("utf-8")
    (section,) = page.split(SECTION)[1:]
    documented = re.findall(r"^\| `(\w+)`", section.partition("\n## ")[0], re.MULTILINE)
    sources = map(inspect.getsource, (parsing, schemas, validation))
    used = set(re.findall(r'EventError\(\s*"(\w+)"', "".join(sources)))

    assert sorted(documented) == sorted(used)
