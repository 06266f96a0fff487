"""Measures of texts that plans count, for a whole batch of texts at once.

The texts of a batch are laid end to end as one array of code points. Each measure is
then a few array operations over it, with one number for each text as the result.
Every script takes the same path. Units are Unicode code points, and words as the
module's constants define them.
"""

import secrets
from collections.abc import Callable, Sequence
from functools import cache, cached_property
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]
Indexes = NDArray[np.intp]

Measure = Literal[
    "characters", "word_points", "third_vowels", "all_words_differ", "is_palindrome"
]
"""The name of a column of `Texts` that a plan may read."""

APOSTROPHES: Final = "'’‘"
HYPHENS: Final = "-\u2010\u2011"
VOWELS: Final = "aeiouAEIOU"
WORD_LENGTHS: Final = (1, 4, 8)
"""The code points from which on a word earns one, two or three points."""

MAX_BATCH: Final = 4096
"""Texts measured at once at most; more would only fall out of the processor's cache."""

_CODE_POINTS: Final = 0x110000
_IN_WORD, _VOWEL, _LETTER_OR_DIGIT = np.uint8(1), np.uint8(2), np.uint8(4)
_PADDING: Final = "\0" * WORD_LENGTHS[-1]
_KEY_BITS: Final = 64
_HASH_FACTOR: Final = secrets.randbits(64) | 5
_LONGEST_COMPARED: Final = 24  # code points; longer equal words are left to Python
_PALINDROME_PROBES: Final = 6


class Texts:
    """The columns of a batch of texts, each of shape `(n_texts,)`, in the order given.

    Those named by `measures` are computed now, others when they are first read. More
    than `MAX_BATCH` texts raise `ValueError`.
    """

    def __init__(
        self, texts: Sequence[str], *, measures: Sequence[Measure] = ()
    ) -> None:
        if len(texts) > MAX_BATCH:
            raise ValueError(f"{len(texts)} texts, but a batch holds {MAX_BATCH}")
        self._texts = texts
        for measure in measures:
            getattr(self, measure)

    def __len__(self) -> int:
        return len(self._texts)

    @cached_property
    def characters(self) -> Counts:
        """Code points in each text."""
        return np.fromiter(map(len, self._texts), np.int64, len(self))

    @cached_property
    def word_points(self) -> Counts:
        """Points for words: 1 for 1–3 code points, 2 for 4–7, 3 for 8 or more."""
        word, points = self._in_word, self._word_start.view(np.uint8).copy()
        reached = self._word_start
        for done, wanted in pairwise(WORD_LENGTHS):
            for offset in range(done, wanted):
                reached = reached[: len(word) - offset] & word[offset:]
            points[: len(reached)] += reached
        return self._sum(points)

    @cached_property
    def third_vowels(self) -> Counts:
        """Vowels that stand at the 3rd, 6th, 9th … place of each text."""
        third = np.repeat(((self._starts + 2) % 3).astype(np.uint8), self._sizes)
        place = np.tile(np.arange(3, dtype=np.uint8), len(third) // 3 + 1)[: len(third)]
        vowel = self._classes[: len(third)] & _VOWEL != 0
        return self._sum((vowel & (place == third)).view(np.uint8))

    @cached_property
    def all_words_differ(self) -> Flags:
        """Whether no word stands twice, by case; true of a text without a word."""
        differ = np.ones(len(self), np.bool_)
        owner, left, right = self._words_with_equal_hashes()
        repeated = self._are_equal_words(left, right)
        differ[owner[repeated]] = False
        for index in np.unique(owner[~repeated]).tolist():
            words = self._words_of(index)
            differ[index] = len(set(words)) == len(words)
        return differ

    @cached_property
    def is_palindrome(self) -> Flags:
        """Whether the lower-cased letters and digits read the same both ways.

        False of a text that has neither.
        """
        result = np.zeros(len(self), np.bool_)
        for index in self._palindrome_candidates().tolist():
            result[index] = _is_palindrome(self._texts[index])
        return result

    # The layout: text, separator, text, separator …, padding.

    @cached_property
    def _sizes(self) -> Counts:
        return self.characters + 1

    @cached_property
    def _starts(self) -> Counts:
        return np.cumsum(self._sizes) - self._sizes

    @cached_property
    def _codes(self) -> NDArray[np.uint32]:
        laid_out = "\0".join([*self._texts, _PADDING])
        return np.frombuffer(laid_out.encode("utf-32-le", "surrogatepass"), np.uint32)

    @cached_property
    def _classes(self) -> NDArray[np.uint8]:
        return _class_table()[self._codes]

    @cached_property
    def _in_word(self) -> Flags:
        return (self._classes & _IN_WORD).view(np.bool_)

    @cached_property
    def _word_start(self) -> Flags:
        start = self._in_word.copy()
        start[1:] &= ~self._in_word[:-1]
        return start

    @cached_property
    def _word_bounds(self) -> tuple[Indexes, Indexes]:
        """Where each word of the batch begins, and where it has ended."""
        word = self._in_word
        return np.flatnonzero(self._word_start), np.flatnonzero(
            word[:-1] > word[1:]
        ) + 1

    @cached_property
    def _words_per_text(self) -> Counts:
        return self._sum(self._word_start.view(np.uint8))

    def _sum(self, per_character: NDArray[np.uint8]) -> Counts:
        return np.add.reduceat(per_character, self._starts, dtype=np.int64)

    def _words_of(self, index: int) -> list[str]:
        begins, ends = self._word_bounds
        first = int(self._words_per_text[:index].sum())
        own = slice(first, first + int(self._words_per_text[index]))
        text, start = self._texts[index], int(self._starts[index])
        bounds = zip(begins[own] - start, ends[own] - start, strict=True)
        return [text[begin:end] for begin, end in bounds]

    def _words_with_equal_hashes(self) -> tuple[Indexes, Indexes, Indexes]:
        """Pairs of words of one text that may be equal: (text, word, word).

        A sort of (text, hash, word) brings them side by side. Unequal hashes prove
        that words differ; equal ones prove nothing, so callers compare the words.
        """
        words = len(self._word_bounds[0])
        word_bits, text_bits = words.bit_length(), len(self).bit_length()
        text_shift = np.uint64(_KEY_BITS - text_bits)
        hash_shift = np.uint64(word_bits)
        texts = np.arange(len(self), dtype=np.uint64) << text_shift
        hashes = self._word_hashes() >> np.uint64(text_bits + word_bits) << hash_shift
        keys = np.repeat(texts, self._words_per_text) | hashes
        keys |= np.arange(words, dtype=np.uint64)
        keys.sort()
        pair = np.flatnonzero(np.diff(keys >> hash_shift) == 0)
        word = (keys & np.uint64((1 << word_bits) - 1)).astype(np.intp)
        return (keys[pair] >> text_shift).astype(np.intp), word[pair], word[pair + 1]

    def _word_hashes(self) -> NDArray[np.uint64]:
        """A polynomial hash of each word, as the difference of two prefix sums.

        Its factor is drawn when the process starts: nobody can prepare texts whose
        words collide, which would not be wrong but slow.
        """
        begins, ends = self._word_bounds
        power, inverse = _powers(len(self._codes))
        sums = np.zeros(len(self._codes) + 1, np.uint64)
        np.cumsum(self._codes * power, out=sums[1:])
        return (sums[ends] - sums[begins]) * inverse[begins]

    def _are_equal_words(self, left: Indexes, right: Indexes) -> Flags:
        begins, ends = self._word_bounds
        lengths = ends - begins
        shorter = np.minimum(lengths[left], lengths[right])
        equal: Flags = lengths[left] == lengths[right]
        equal &= shorter <= _LONGEST_COMPARED
        for place in range(int(shorter[equal].max(initial=0))):
            offset = np.minimum(place, shorter - 1)
            equal &= (
                self._codes[begins[left] + offset]
                == self._codes[begins[right] + offset]
            )
        return equal

    def _palindrome_candidates(self) -> Indexes:
        """Texts whose outermost letters and digits mirror each other."""
        kept = self._classes & _LETTER_OR_DIGIT != 0
        places = np.flatnonzero(kept)
        ends = np.cumsum(self._sum(kept.view(np.uint8)))
        begins = np.concatenate([[0], ends[:-1]])
        texts = np.flatnonzero(ends > begins)
        fold = _fold_table()
        for probe in range(_PALINDROME_PROBES):
            low = np.minimum(begins[texts] + probe, ends[texts] - 1)
            high = np.maximum(ends[texts] - 1 - probe, begins[texts])
            mirrored = fold[self._codes[places[low]]] == fold[self._codes[places[high]]]
            texts = texts[mirrored]
        return texts


def is_letter_or_digit(character: str) -> bool:
    """Whether Unicode calls the character a letter (L*) or a digit."""
    return character.isalpha() or character.isdigit()


def _is_palindrome(text: str) -> bool:
    kept = [character for character in text.lower() if is_letter_or_digit(character)]
    return kept == kept[::-1]


def prepare() -> None:
    """Build the tables of all code points now rather than at the first text."""
    _class_table()
    _fold_table()


@cache
def _class_table() -> NDArray[np.uint8]:
    letter = _that(str.isalpha)
    kept = letter | _that(str.isdigit)
    table = letter * _IN_WORD | kept * _LETTER_OR_DIGIT
    table[[ord(character) for character in APOSTROPHES + HYPHENS]] |= _IN_WORD
    table[[ord(character) for character in VOWELS]] |= _VOWEL
    return table


@cache
def _fold_table() -> NDArray[np.uint32]:
    """Lower case by single characters, coarse enough to lose no palindrome.

    Two letters need care: the dotted capital I becomes two characters, of which only
    the first counts, and a sigma is written differently at a word's end.
    """
    everything = "".join(map(chr, range(_CODE_POINTS)))
    single = everything.translate({0x130: "i", 0x3A3: 0x3C3, 0x3C2: 0x3C3})
    lowered = single.lower().encode("utf-32-le", "surrogatepass")
    return np.frombuffer(lowered, np.uint32)


def _that(are: Callable[[str], bool]) -> Flags:
    """For every code point whether it is so."""
    return np.fromiter(map(are, map(chr, range(_CODE_POINTS))), np.bool_, _CODE_POINTS)


_PowerTables = tuple[NDArray[np.uint64], NDArray[np.uint64]]
_power_tables: _PowerTables = (np.ones(1, np.uint64), np.ones(1, np.uint64))


def _powers(count: int) -> _PowerTables:
    """The first powers of the hash's factor, and of its inverse, modulo 2**64."""
    global _power_tables  # noqa: PLW0603 - grown once, then only read
    if len(_power_tables[0]) < count:
        size = 1 << count.bit_length()
        inverse = pow(_HASH_FACTOR, -1, 1 << 64)
        _power_tables = (_powers_of(_HASH_FACTOR, size), _powers_of(inverse, size))
    return _power_tables[0][:count], _power_tables[1][:count]


def _powers_of(factor: int, count: int) -> NDArray[np.uint64]:
    factors = np.full(count, factor, np.uint64)
    factors[0] = 1
    return np.cumprod(factors)
