"""Rating on one core, against the same rules written one message at a time."""

import random
from collections.abc import Sequence
from typing import Final

from benchmarks.report import Result, interleaved, minimum
from service.usage.pricing.plans import TEXT_RULES, TOKEN_ESTIMATE

MESSAGES: Final = 100_000
CHARACTERS: Final = 60
FASTEST_PUBLIC_PER_S: Final = 164_000
"""The fastest public implementation of the rules, on two cores of the same kind."""
WANTED_PER_S: Final = 1_200_000

VOCABULARY: Final = (
    "what are the tenant obligations under clause seven of this lease is there any "
    "break option rent review landlord notice period alterations restrictions sublet "
    "insurance rent deposit service charge cap guarantor forfeiture rights of way "
    "covenant easement title register boundary completion date penalty schedule"
).split()

_WORDS: Final = bytes(
    code if chr(code).isascii() and (chr(code).isalpha() or chr(code) in "'-") else 32
    for code in range(256)
)
_LOWER: Final = bytes(code + 32 if 65 <= code <= 90 else code for code in range(256))
_NO_VOWELS: Final = bytes(c for c in range(256) if chr(c) not in "aeiouAEIOU")
_DROPPED: Final = bytes(c for c in range(256) if c > 127 or not chr(c).isalnum())


def question(source: random.Random) -> str:
    """A text of exactly 60 characters."""
    words = ""
    while len(words) < CHARACTERS:
        words += source.choice(VOCABULARY) + " "
    return words[: CHARACTERS - 1] + "?"


def rate_one_by_one(texts: Sequence[str]) -> list[int]:
    """The rules for ASCII, a message at a time, as fast as plain Python does it."""
    return [_rate(text.encode("ascii")) for text in texts]


def _rate(text: bytes) -> int:
    words = text.translate(_WORDS).split()
    points = sum(1 + (len(word) > 3) + (len(word) > 7) for word in words)
    vowels = len(text[2::3].translate(None, _NO_VOWELS))
    total = 100 + 5 * len(text) + 10 * points + 30 * vowels + 500 * (len(text) > 100)
    if len(set(words)) == len(words):
        total = max(100, total - 200)
    letters = text.translate(_LOWER, _DROPPED)
    return total * 2 if letters and letters == letters[::-1] else total


def run() -> list[Result]:
    """Messages a second under both plans."""
    source = random.Random(7)
    texts = [question(source) for _ in range(MESSAGES)]
    if TEXT_RULES.rate(texts).tolist() != rate_one_by_one(texts):
        raise AssertionError("the two implementations disagree")
    rules_s, plain_s, tokens_s = interleaved(
        lambda: TEXT_RULES.rate(texts),
        lambda: rate_one_by_one(texts),
        lambda: TOKEN_ESTIMATE.rate(texts),
    )
    per_s = MESSAGES / rules_s
    return [
        minimum(
            "text-rules: messages a second, to 1,200,000",
            per_s / WANTED_PER_S,
            1,
            f"{per_s:,.0f} a second, {CHARACTERS} characters each; "
            f"{per_s / FASTEST_PUBLIC_PER_S:.1f} × the fastest public one",
        ),
        minimum(
            "text-rules: to one message at a time",
            plain_s / rules_s,
            1,
            f"plain Python: {MESSAGES / plain_s:,.0f} a second",
        ),
        minimum(
            "token-estimate: messages a second, to 1,200,000",
            MESSAGES / tokens_s / WANTED_PER_S,
            1,
            f"{MESSAGES / tokens_s:,.0f} a second",
        ),
    ]
