"""Reference for the tests: both plans, written out character by character.

Nothing here is fast or clever, and nothing is shared with the service: each rule is
the contract's sentence in Python. Below the plans: words for generating texts, and a
few lines that make small periods. Amounts are hundredths of a credit.
"""

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from hypothesis import strategies as st

from service.usage.pricing.plans import TEXT_RULES, Plan
from service.usage.snapshots.build import Built, ReportPrice, ResolvedReports, build
from service.usage.snapshots.columns import PricedMessages
from service.usage.snapshots.decoding import read_messages
from service.usage.snapshots.formats import to_json
from service.usage.snapshots.messages import Messages

Reports = Mapping[str, ReportPrice | None]
"""The report of each id; None, like an id without an entry, is one that is missing."""


class Step(NamedTuple):
    """One step of a price: what it adds, and the total then."""

    name: str
    amount: int
    total: int


def is_letter(character: str) -> bool:
    """Whether the character's general category is one of the letters."""
    return unicodedata.category(character) in {"Lu", "Ll", "Lt", "Lm", "Lo"}


def is_digit(character: str) -> bool:
    """Whether Unicode gives the character the value of a digit."""
    return unicodedata.digit(character, None) is not None


def words_of(text: str) -> list[str]:
    """The longest runs of letters, apostrophes and hyphens."""
    words = []
    word = ""
    for character in text:
        if is_letter(character) or character in "'\u2019\u2018-\u2010\u2011":
            word += character
        elif word:
            words.append(word)
            word = ""
    if word:
        words.append(word)
    return words


def word_points(word: str) -> int:
    """One point for 1-3 characters, two for 4-7, three for 8 or more."""
    if len(word) >= 8:
        return 3
    if len(word) >= 4:
        return 2
    return 1


def third_vowels(text: str) -> int:
    """How many of the 3rd, 6th, 9th ... characters are vowels."""
    count = 0
    for place, character in enumerate(text, start=1):
        if place % 3 == 0 and character.lower() in {"a", "e", "i", "o", "u"}:
            count += 1
    return count


def all_words_differ(text: str) -> bool:
    """Whether no word has been seen before, by case."""
    seen = set()
    for word in words_of(text):
        if word in seen:
            return False
        seen.add(word)
    return True


def is_palindrome(text: str) -> bool:
    """Whether what is left of the lower-cased text reads the same backwards."""
    left = ""
    for character in text.lower():
        if is_letter(character) or is_digit(character):
            left += character
    return left != "" and left == "".join(reversed(left))


def text_rules(text: str) -> list[Step]:
    """The steps of the plan `text-rules`, in the contract's order."""
    total = 0
    steps = []

    def add(name: str, amount: int) -> None:
        nonlocal total
        total += amount
        steps.append(Step(name, amount, total))

    add("base", 100)
    add("characters", 5 * len(text))
    add("words", sum(10 * word_points(word) for word in words_of(text)))
    add("third_vowels", 30 * third_vowels(text))
    add("length_penalty", 500 if len(text) > 100 else 0)
    discounted = max(total - 200, 100) if all_words_differ(text) else total
    add("unique_words", discounted - total)
    add("palindrome", total if is_palindrome(text) else 0)
    return steps


def token_estimate(text: str) -> list[Step]:
    """The steps of the plan `token-estimate`."""
    tokens, rest = divmod(len(text), 4)
    if rest:
        tokens += 1
    amount = tokens * 40
    total = max(amount, 100)
    return [Step("tokens", amount, amount), Step("minimum", total - amount, total)]


REFERENCES: Mapping[str, Callable[[str], list[Step]]] = {
    "text-rules": text_rules,
    "token-estimate": token_estimate,
}


def rate(plan: Plan, texts: Iterable[str]) -> list[int]:
    """What each text costs by the reference."""
    return [REFERENCES[plan.name](text)[-1].total for text in texts]


# Generating.

AWKWARD = (
    *"aeiouAEIOUxyzXYZ019",
    *"'\u2019\u2018-\u2010\u2011\u2012\u2013_.,!?",
    *" \n\r\t\0\u2028\ufeff",
    *"\u0130\u0131\u1e9e\u00df\u03a3\u03c3\u03c2",  # lower-casing's special cases
    *"\u0301\u0307\u0345\u200d\u0e31",  # marks, and a joiner
    *"\u00b2\u00bd\u0663\u2167\u24b6\u2460",  # digits, and what only looks like one
    *"\u00e9\u0434\u05d0\u0639\u6f22\u3042\u1f12\ud55c",
    *"\U0001f600\U0001d400\U0001d7d8\U00020000",
    *"\ud800\udc00\udfff",
)
"""Characters on which two readings of the rules are likely to differ."""

_characters = st.one_of(st.sampled_from(AWKWARD), st.characters(exclude_categories=()))
_words = st.one_of(
    st.sampled_from(["a", "rent", "Rent", "lease-hold", "tenant\u2019s", "x" * 25]),
    st.text(st.sampled_from("ab-"), min_size=1, max_size=30),
)
_of_words = st.builds(
    str.join, st.sampled_from([" ", "\n", "\0", "2", ". "]), st.lists(_words)
)
_mirrored = st.builds(
    lambda half, middle: half + middle + half[::-1].swapcase(),
    st.text(_characters, max_size=12),
    st.text(_characters, max_size=3),
)
_long = st.builds(
    lambda text, size: (text * size)[:size],
    st.text(_characters, min_size=1, max_size=5),
    st.one_of(st.integers(95, 105), st.integers(0, 5000)),
)

texts = st.one_of(st.text(_characters, max_size=60), _of_words, _mirrored, _long)
"""Texts of every kind that the rules tell apart, surrogates and NULs included."""

sendable_texts = texts.map(lambda text: text.encode("utf-8", "ignore").decode())
"""The same without surrogates, which JSON in UTF-8 cannot carry."""


# Small periods.


def message(message_id: int, text: str = "Hi", **fields: Any) -> dict[str, Any]:
    """Return a message as upstream sends it, with `report_id` and `timestamp`."""
    timestamp = "2024-04-29T02:08:29.375Z"
    return {"id": message_id, "text": text, "timestamp": timestamp, **fields}


def body_of(messages: Iterable[Mapping[str, Any]]) -> bytes:
    """Return upstream's body with these messages."""
    return msgspec.json.encode({"messages": list(messages)})


def read(messages: Iterable[Mapping[str, Any]]) -> Messages:
    """Read the messages of a body that holds these."""
    return read_messages(body_of(messages))


def report(key: str, name: str, credit_cost: float) -> dict[str, ReportPrice | None]:
    """Return one resolved report by its id."""
    return {key: ReportPrice(name, round(credit_cost * 100))}


def resolve(keys: Iterable[str], reports: Reports | None = None) -> ResolvedReports:
    """Return what each of these report ids was resolved to."""
    return ResolvedReports([(reports or {}).get(key) for key in keys], ())


def build_of(
    messages: Iterable[Mapping[str, Any]],
    reports: Reports | None = None,
    plan: Plan = TEXT_RULES,
    before: PricedMessages | None = None,
    *,
    refresh_id: str = "",
) -> Built:
    """Build the period of these messages."""
    known = read(messages)
    resolved = resolve(known.report_keys, reports)
    return build(known, resolved, plan, before, refresh_id=refresh_id)


def priced_of(
    messages: Iterable[Mapping[str, Any]],
    reports: Reports | None = None,
    plan: Plan = TEXT_RULES,
    before: PricedMessages | None = None,
) -> PricedMessages:
    """Return the priced messages of a period."""
    return build_of(messages, reports, plan, before).priced


def items_of(priced: PricedMessages) -> list[dict[str, Any]]:
    """Return the items of the period's answer."""
    items: list[dict[str, Any]] = msgspec.json.decode(to_json(priced))["usage"]
    return items


def prices_of(priced: PricedMessages) -> list[float]:
    """Return the price of each message of the period, in credits."""
    return [item["credits_used"] for item in items_of(priced)]
