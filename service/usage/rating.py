"""Rating: what a text costs under a plan, as exact hundredths of a credit.

A plan is a list of named steps. A step sees the measured texts and the totals so
far, and answers what it adds (or takes off) for each text; a new plan is a new list.
Everything here is pure: no I/O, no log, no clock.

>>> TEXT_RULES.rate(["rent rent"])
array([185])
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.usage.text import MAX_BATCH, Texts

Hundredths = NDArray[np.int64]
"""Amounts of credits, counted in hundredths so that nothing drifts."""

HUNDREDTHS_PER_CREDIT: Final = 100
MINIMUM: Final = 100
LONG_TEXT_CHARACTERS: Final = 100
CHARACTERS_PER_TOKEN: Final = 4


class PlanStep(NamedTuple):
    """One named step: `amount(texts, totals_so_far)` gives hundredths for each text."""

    name: str
    amount: Callable[[Texts, Hundredths], Hundredths]


class RatedStep(NamedTuple):
    """What one step did to one text, in hundredths: its part, and the total then."""

    name: str
    amount: int
    total: int


class Plan(NamedTuple):
    """A published way to price a text."""

    name: str
    version: int
    steps: tuple[PlanStep, ...]

    @property
    def id(self) -> str:
        """The name with its version, as headers and logs carry it."""
        return f"{self.name}/{self.version}"

    def rate(self, texts: Sequence[str]) -> Hundredths:
        """Price many texts: hundredths, one for each text, in their order."""
        batches = range(0, len(texts), MAX_BATCH)
        totals = [self._rate_batch(texts[at : at + MAX_BATCH]) for at in batches]
        return np.concatenate(totals) if totals else np.zeros(0, np.int64)

    def explain(self, texts: Sequence[str]) -> Iterator[list[RatedStep]]:
        """Price texts step by step: each text's steps, in the plan's order."""
        for at in range(0, len(texts), MAX_BATCH):
            batch = texts[at : at + MAX_BATCH]
            amounts, totals = zip(*self._amounts(Texts(batch)), strict=True)
            for own in zip(
                zip(*amounts, strict=True), zip(*totals, strict=True), strict=True
            ):
                yield [
                    RatedStep(step.name, int(amount), int(total))
                    for step, amount, total in zip(self.steps, *own, strict=True)
                ]

    def _rate_batch(self, texts: Sequence[str]) -> Hundredths:
        *_, (_, totals) = self._amounts(Texts(texts))
        return totals

    def _amounts(self, texts: Texts) -> Iterator[tuple[Hundredths, Hundredths]]:
        totals: Hundredths = np.zeros(len(texts), np.int64)
        for step in self.steps:
            amount = step.amount(texts, totals)
            totals = totals + amount
            yield amount, totals


def base(texts: Texts, totals: Hundredths) -> Hundredths:
    """1 credit for any text."""
    return np.full_like(totals, 100)


def characters(texts: Texts, totals: Hundredths) -> Hundredths:
    """0.05 for each code point."""
    return 5 * texts.characters


def words(texts: Texts, totals: Hundredths) -> Hundredths:
    """0.1, 0.2 or 0.3 for each word, by its length."""
    return 10 * texts.word_points


def third_vowels(texts: Texts, totals: Hundredths) -> Hundredths:
    """0.3 for each third character that is a vowel."""
    return 30 * texts.third_vowels


def length_penalty(texts: Texts, totals: Hundredths) -> Hundredths:
    """5 for a text of more than 100 code points."""
    return 500 * (texts.characters > LONG_TEXT_CHARACTERS)


def unique_words(texts: Texts, totals: Hundredths) -> Hundredths:
    """2 off where all words differ, as far as the minimum allows."""
    return np.maximum(-200, MINIMUM - totals) * texts.all_words_differ


def palindrome(texts: Texts, totals: Hundredths) -> Hundredths:
    """The total so far once more, where the text is a palindrome."""
    return totals * texts.is_palindrome


def tokens(texts: Texts, totals: Hundredths) -> Hundredths:
    """0.4 for each token, estimated as four code points, rounded up."""
    return 40 * -(-texts.characters // CHARACTERS_PER_TOKEN)


def minimum(texts: Texts, totals: Hundredths) -> Hundredths:
    """What is missing to 1 credit."""
    return np.maximum(0, MINIMUM - totals)


def _steps(*amounts: Callable[[Texts, Hundredths], Hundredths]) -> tuple[PlanStep, ...]:
    return tuple(PlanStep(amount.__name__, amount) for amount in amounts)


TEXT_RULES: Final = Plan(
    "text-rules",
    1,
    _steps(
        base,
        characters,
        words,
        third_vowels,
        length_penalty,
        unique_words,
        palindrome,
    ),
)
TOKEN_ESTIMATE: Final = Plan("token-estimate", 1, _steps(tokens, minimum))

PLANS: Final[Mapping[str, Plan]] = {
    plan.name: plan for plan in (TEXT_RULES, TOKEN_ESTIMATE)
}
