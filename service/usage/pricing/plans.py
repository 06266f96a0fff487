"""Plans: the price of a text, as exact hundredths of a credit.

A plan is a list of named steps. A step reads the measures of the texts and the totals
of the steps before it. It returns the amount that it adds to each price. The rules are
published in docs/plans.md; a changed rule needs a new version of its plan.

>>> TEXT_RULES.rate(["rent rent"])
array([185])
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.usage.pricing.text import MAX_BATCH, Texts

Hundredths = NDArray[np.int64]
"""Amounts in hundredths of a credit: integers, so that sums are exact."""

HUNDREDTHS_PER_CREDIT: Final = 100
MIN_HUNDREDTHS: Final = 100
LONG_TEXT_CHARACTERS: Final = 100
CHARACTERS_PER_TOKEN: Final = 4
CHARACTER_RATE: Final = 5
WORD_POINT_RATE: Final = 10
VOWEL_RATE: Final = 30
TOKEN_RATE: Final = 40

Amount = Callable[[Texts, Hundredths], Hundredths]
"""Computes a step's amounts from the measures and the totals before it.

Totals and amounts: `(n_texts,)` int64, hundredths of a credit.
"""


class PlanStep(NamedTuple):
    """One named step."""

    name: str
    amount: Amount
    rate: int | None = None
    """Hundredths of a credit for each unit, if the amount is a multiple of it."""
    unit: str | None = None


@dataclass(frozen=True)
class Plan:
    """A published set of pricing rules for texts."""

    name: str
    version: int
    steps: tuple[PlanStep, ...]
    id: str = field(init=False)
    """The name with its version, as in headers and logs: `text-rules/1`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", f"{self.name}/{self.version}")

    def rate(self, texts: Sequence[str]) -> Hundredths:
        """Return the price of each text: `(n_texts,)` int64, hundredths of a credit."""
        prices: Hundredths = self.amounts(texts).sum(axis=0)
        return prices

    def amounts(self, texts: Sequence[str]) -> Hundredths:
        """Return the amount of each step for each text.

        `(n_steps, n_texts)` int64, hundredths of a credit.
        """
        amounts = np.empty((len(self.steps), len(texts)), np.int64)
        for at in range(0, len(texts), MAX_BATCH):
            batch = slice(at, at + MAX_BATCH)
            self.rate_batch(Texts(texts[batch]), amounts[:, batch])
        return amounts

    def rate_batch(self, texts: Texts, amounts: Hundredths) -> Hundredths:
        """Set the amount of each step, `(n_steps, n_texts)`, and return the prices."""
        totals: Hundredths = np.zeros(len(texts), np.int64)
        for place, step in enumerate(self.steps):
            amounts[place] = step.amount(texts, totals)
            totals += amounts[place]
        return totals


def base(texts: Texts, totals: Hundredths) -> Hundredths:
    """Add 1 credit to any text."""
    return np.full_like(totals, 100)


def characters(texts: Texts, totals: Hundredths) -> Hundredths:
    """Add 0.05 credits for each code point."""
    return CHARACTER_RATE * texts.characters


def words(texts: Texts, totals: Hundredths) -> Hundredths:
    """Add 0.1, 0.2 or 0.3 credits for each word, by its length."""
    return WORD_POINT_RATE * texts.word_points


def third_vowels(texts: Texts, totals: Hundredths) -> Hundredths:
    """Add 0.3 credits for each third character that is a vowel."""
    return VOWEL_RATE * texts.third_vowels


def length_penalty(texts: Texts, totals: Hundredths) -> Hundredths:
    """Add 5 credits to a text of more than 100 code points."""
    return 500 * (texts.characters > LONG_TEXT_CHARACTERS)


def unique_words(texts: Texts, totals: Hundredths) -> Hundredths:
    """Subtract 2 credits where all words differ, down to the minimum price."""
    return np.maximum(-200, MIN_HUNDREDTHS - totals) * texts.all_words_differ


def palindrome(texts: Texts, totals: Hundredths) -> Hundredths:
    """Double the total where the text is a palindrome."""
    return totals * texts.is_palindrome


def tokens(texts: Texts, totals: Hundredths) -> Hundredths:
    """Add 0.4 credits for each token, estimated as four code points, rounded up."""
    return TOKEN_RATE * -(-texts.characters // CHARACTERS_PER_TOKEN)


def minimum(texts: Texts, totals: Hundredths) -> Hundredths:
    """Add the amount that is missing to 1 credit."""
    return np.maximum(0, MIN_HUNDREDTHS - totals)


def _step(amount: Amount, rate: int | None = None, unit: str | None = None) -> PlanStep:
    return PlanStep(amount.__name__, amount, rate, unit)


TEXT_RULES: Final = Plan(
    "text-rules",
    1,
    (
        _step(base),
        _step(characters, CHARACTER_RATE, "character"),
        _step(words, WORD_POINT_RATE, "word point"),
        _step(third_vowels, VOWEL_RATE, "vowel"),
        _step(length_penalty),
        _step(unique_words),
        _step(palindrome),
    ),
)
TOKEN_ESTIMATE: Final = Plan(
    "token-estimate",
    1,
    (_step(tokens, TOKEN_RATE, "token"), _step(minimum)),
)

PLANS: Final[Mapping[str, Plan]] = {
    plan.name: plan for plan in (TEXT_RULES, TOKEN_ESTIMATE)
}
PLANS_BY_ID: Final[Mapping[str, Plan]] = {plan.id: plan for plan in PLANS.values()}
