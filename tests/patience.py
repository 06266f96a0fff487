"""Upper bounds that end a stuck test or program, and never a slow machine."""

from typing import Final

GIVE_UP_S: Final = 120.0
"""Upper bound of every wait in the tests: more than a slow machine ever needs."""
