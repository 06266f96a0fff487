"""Detection of lists that have lost most of the known messages."""

from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from service.usage.pricing.timestamps import Instants
from service.usage.snapshots.messages import Messages

MAX_INSTANT: Final = 2**63 - 1

_DIGEST_BYTES: Final = 8


class Shrink(NamedTuple):
    """The loss of most known messages."""

    known: int
    lost: int
    survivors: str
    """A digest of the known messages that remain."""


class KnownMessages(NamedTuple):
    """The columns of the previous messages that reveal a shrink: `(n_messages,)`."""

    ids: NDArray[np.int64]
    instants: Instants


def find_shrink(messages: Messages, before: KnownMessages) -> Shrink | None:
    """Return a shrink if more than half of the previous messages are gone.

    A new period is no shrink: none of its messages is known, and all are later.
    """
    known, common = len(before.ids), min(len(messages.ids), len(before.ids))
    in_place = np.count_nonzero(messages.ids[:common] == before.ids[:common])
    # Upstream mostly appends, so the slower search for ids is seldom needed.
    if 2 * in_place >= known:
        return None
    survives = np.isin(before.ids, messages.ids)
    survivors = int(np.count_nonzero(survives))
    if 2 * survivors >= known:
        return None
    is_later = messages.instants.min(initial=MAX_INSTANT) > before.instants.max()
    if not survivors and len(messages.ids) and is_later:
        return None
    digest = blake2b(np.packbits(survives).tobytes(), digest_size=_DIGEST_BYTES)
    return Shrink(known, known - survivors, digest.hexdigest())
