"""Text in cells of CSV that people open with a spreadsheet."""

import re
from typing import Final

# As in the dashboard. Some languages also type the full-width forms.
_FORMULA: Final = re.compile("[=+\\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")


def escape_formula(text: str) -> str:
    """Return text with an apostrophe before it if a spreadsheet would calculate it."""
    return f"'{text}" if _FORMULA.match(text) else text
