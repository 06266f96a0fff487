"""Measures of a batch of texts equal those of the reference, text by text."""

import sys
import unicodedata
from itertools import product
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.usage.pricing.text import MAX_BATCH, Texts, _equal_pairs
from tests import reference


def assert_counted_like_the_reference(texts: list[str]) -> None:
    columns = Texts(texts)
    assert columns.characters.tolist() == [len(text) for text in texts]
    assert columns.word_points.tolist() == [
        sum(map(reference.word_points, reference.words_of(text))) for text in texts
    ]
    for name in ("third_vowels", "all_words_differ", "is_palindrome"):
        count = getattr(reference, name)
        assert getattr(columns, name).tolist() == [count(text) for text in texts]
    # Arrays look for palindromes in large batches only.
    with patch("service.usage.pricing.text._FEW_TEXTS", 0):
        assert np.array_equal(Texts(texts).is_palindrome, columns.is_palindrome)


def words(*words: str) -> str:
    return " ".join(words)


LONG = "x" * 25  # more than is compared in columns
PAIRS = [f"{first}{second}" for first, second in product("abcdefgh", repeat=2)]

HOSTILE = {
    "empty": "",
    "nul": "\0",
    "nuls around words": "\0\0rent\0\0rent\0",
    "line feeds": "\n\n\r\n\u2028",
    "only marks": "\u0301\u0301\u0301",
    "marks split words": "cafe\u0301s cafe\u0301s",
    "one word of 100,000": "e" * 100_000,
    "10,000 equal words": words(*["rent"] * 10_000),
    "10,000 equal long words": words(*[LONG] * 10_000),
    "10,000 words, one twice": words(*map(PAIRS[0].__mul__, range(1, 100)), "ab"),
    "long words that differ at the end": words(LONG + "a", LONG + "b"),
    "long words that differ in length": words(LONG, LONG + "x"),
    "equal long words": words(LONG, "y", LONG),
    "words that differ by case": "Rent rent",
    "words that differ by apostrophe": "o'clock o\u2019clock o\u2018clock",
    "words that differ by hyphen": "a-b a\u2010b a\u2011b",
    "dashes that are no hyphens": "a\u2012a\u2013a\u2014a\u2212a",
    "hyphens alone": "- -- \u2010 \u2011\u2011",
    "apostrophes alone": "' \u2019 \u2018",
    "equal hyphens": "- -",
    "lone surrogates": "\ud800 \udfff\ud800 a",
    "a pair of surrogates": "\ud83d\ude00",
    "mixed scripts": "\u0434\u043e\u043c \u6f22\u5b57\u6f22\u5b57 \u05d1\u05d9\u05ea",
    "beyond the basic plane": "\U00020000\U00020001\U00020002\U00020003 \U0001d41a",
    "digits part words": "a1a a1b",
    "underscores part words": "a_a",
    "longer than a batch": words(*PAIRS) * (MAX_BATCH // 64),
    "an equal word first and last": words(*PAIRS, "aa"),
    "an equal word at the end": words(*PAIRS, "hh"),
    "equal words that are no neighbours": words("b", LONG, "a", LONG, "b"),
    "words of one beginning": words("abc", "abd", "abcd", "xbc", "ab"),
    "much shorter at the end": words("b" * 20, "c" * 20, "d"),
    "one digit": "7",
    "sentence": "A man, a plan, a canal: Panama!",
    "digits": "10 Aa 01",
    "letters between equal digits": "1ab1",
    "other scripts' digits": "\u0663x\u0663",
    "superscript is a digit": "\u00b2ab",
    "half is no digit": "\u00bdaba",
    "roman numeral is no letter": "\u2167aba",
    "dotted capital I is i and a mark": "\u0130xi",
    "dotless i is not i": "\u0131xi",
    "capital sharp s": "\u1e9ex\u00df",
    "sharp s is not ss": "\u00dfxss",
    "capital sigma at the end is a final one": "\u03a3\u0391\u03a3",
    "final sigma mirrors a capital at the end": "\u03c2x\u03a3",
    "lone capital sigma": "\u03a3",
    "sigma before punctuation": "\u03a3\u03b1\u03a3.",
    "marks do not count": "e\u0301ae",
    "mirrored beyond the basic plane": "\U0001d400a\U0001d400",
    "kelvin sign is a k": "\u212aak",
    "surrogates do not count": "\ud800a\udfffba",
    "long, the middle differs": "ab" * 5_000 + "xy" + "ba" * 5_000,
    "long, an inner pair differs": "abcdefghX" + "z" * 99 + "Yhgfedcba",
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text_is_counted_like_any_other(text: str) -> None:
    """Odd texts are measured exactly: alone, between others, if all hashes collide."""
    assert_counted_like_the_reference([text])
    assert_counted_like_the_reference(["rent rent", text, "", text, "Rent rent"])
    hashes = np.zeros(len(reference.words_of(text)), np.uint64)
    with patch.object(Texts, "_word_hashes", return_value=hashes):
        assert_counted_like_the_reference([text])


def test_every_character_of_unicode_is_classified_like_the_reference() -> None:
    """Letters, digits and vowels are Unicode's, in every plane."""
    assigned = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if unicodedata.category(character) not in {"Cn", "Co"}
    ]
    for at in range(0, len(assigned), MAX_BATCH):
        batch = assigned[at : at + MAX_BATCH]
        points = Texts(batch).word_points.tolist()
        assert points == [len(reference.words_of(each)) for each in batch]
        mirrored = Texts(batch).is_palindrome.tolist()
        assert mirrored == [reference.is_palindrome(each) for each in batch]


def test_every_capital_mirrors_its_lower_case() -> None:
    """A character is equal to its lower case, one letter for one or more."""
    cased = [
        character
        for character in map(chr, range(sys.maxunicode + 1))
        if character.lower() != character
    ]
    texts = [f"{character}x{character.lower()}" for character in cased]
    expected = [reference.is_palindrome(text) for text in texts]
    assert Texts(texts).is_palindrome.tolist() == expected
    assert sum(expected) > len(texts) / 2


def test_unassigned_and_private_characters_are_neither_letters_nor_digits() -> None:
    """Unassigned code points separate words, up to the last one."""
    texts = ["a\u0378a", "a\ue000a", "a\U000e0080a", f"a{chr(sys.maxunicode)}a"]
    assert Texts(texts).word_points.tolist() == [2] * len(texts)
    assert Texts([chr(sys.maxunicode)]).is_palindrome.tolist() == [False]


@given(st.lists(reference.texts, max_size=6), st.integers(0, 2**64 - 1))
def test_equal_hashes_of_different_words_change_nothing(
    texts: list[str], value: int
) -> None:
    """Words are compared by their characters, also if words of two texts collide."""
    count = sum(len(reference.words_of(text)) for text in texts)
    equal = np.full(count, value, np.uint64)
    for hashed in ("_word_hashes", "_keys"):
        with patch.object(Texts, hashed, lambda *_: equal):
            assert_counted_like_the_reference(texts)


@given(st.lists(st.integers(0, 40).map(lambda key: key << 20), max_size=300))
def test_each_key_that_is_repeated_is_paired(keys: list[int]) -> None:
    """All but one index of a key are paired with the one, in however many rounds."""
    left, right = _equal_pairs(np.array(keys, np.uint64))
    assert len(left) == len(set(left.tolist())) == len(keys) - len(set(keys))
    assert not set(left.tolist()) & set(right.tolist())
    assert [keys[each] for each in left] == [keys[each] for each in right]


def test_batch_that_is_too_large_is_refused() -> None:
    """One text more than a batch holds is an error, not a wrong number."""
    with pytest.raises(ValueError, match=f"holds {MAX_BATCH}"):
        Texts([""] * (MAX_BATCH + 1))
