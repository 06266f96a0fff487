"""Tables over all Unicode code points, by which texts are measured as arrays."""

import re
from functools import cache
from threading import RLock
from typing import Final

import numpy as np
from numpy.typing import NDArray

APOSTROPHES: Final = "'’‘"
HYPHENS: Final = "-\u2010\u2011"
VOWELS: Final = "aeiouAEIOU"

IN_WORD, VOWEL, LETTER_OR_DIGIT = np.uint8(1), np.uint8(2), np.uint8(4)
"""Bits of `class_table`."""

_CODE_POINTS: Final = 0x110000


_alone: Final = RLock()
"""Held while a table is made, so that a thread waits for that of another thread."""


@cache
def class_table() -> NDArray[np.uint8]:
    """Return the classes of each code point, as bits: `(1_114_112,)` uint8."""
    with _alone:
        return _make_class_table()


@cache
def _make_class_table() -> NDArray[np.uint8]:
    table = np.zeros(_CODE_POINTS, np.uint8)
    # Letters and digits are among the characters of `\w`. Most of its runs are letters
    # only, so this takes a fraction of the time of a look at each code point.
    for run in re.finditer(r"\w+", _decode(np.arange(_CODE_POINTS, dtype="<u4"))):
        characters, place = run.group(), slice(*run.span())
        if characters.isalpha():
            table[place] = IN_WORD | LETTER_OR_DIGIT
            continue
        letter = np.array([each.isalpha() for each in characters])
        digit = np.array([each.isdigit() for each in characters])
        table[place] = letter * IN_WORD | (letter | digit) * LETTER_OR_DIGIT
    table[[ord(character) for character in APOSTROPHES + HYPHENS]] |= IN_WORD
    table[[ord(character) for character in VOWELS]] |= VOWEL
    return table


@cache
def latin_classes() -> bytes:
    """Return the classes of the first 256 code points, for `bytes.translate`."""
    return class_table()[:256].tobytes()


@cache
def fold_table() -> NDArray[np.uint32]:
    """Return the lower case of each letter and digit: `(1_114_112,)` uint32.

    All other code points have 0. The table is coarse: texts that fold alike may
    differ, but no palindrome is lost.
    """
    with _alone:
        return _make_fold_table()


@cache
def _make_fold_table() -> NDArray[np.uint32]:
    code_points = np.arange(_CODE_POINTS, dtype="<u4")
    # The dotted capital I becomes two characters, of which only the first counts.
    # A sigma has another form at the end of a word.
    code_points[[0x130, 0x3A3, 0x3C2]] = [ord("i"), 0x3C3, 0x3C3]
    lowered = _decode(code_points).lower().encode("utf-32-le", "surrogatepass")
    is_compared = class_table() & LETTER_OR_DIGIT != 0
    folded: NDArray[np.uint32] = np.frombuffer(lowered, np.uint32) * is_compared
    return folded


def _decode(code_points: NDArray[np.uint32]) -> str:
    return code_points.tobytes().decode("utf-32-le", "surrogatepass")
