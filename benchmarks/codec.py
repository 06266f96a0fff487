"""Decoding and encoding a period, against msgspec alone on the same bytes.

"Alone" is what any service has to do: decode into structs, build the items, encode
them. Ours also reads every timestamp, and sorts the report ids out. A large body is
hashed by another thread while it arrives, so that is measured by itself.
"""

from typing import Final

import msgspec

from benchmarks.report import Result, interleaved, maximum
from service.sandbox.options import SandboxOptions
from service.sandbox.periods import generate_period
from service.usage.pricing.plans import TOKEN_ESTIMATE
from service.usage.snapshots.answers import UsageAnswer
from service.usage.snapshots.body_hashes import Hashing
from service.usage.snapshots.build import (
    ReportPrice,
    ResolvedReports,
    build,
    encode_items,
)
from service.usage.snapshots.columns import ANSWER_BEGIN, ANSWER_END
from service.usage.snapshots.decoding import read_messages
from service.usage.snapshots.messages import UpstreamPeriod

MESSAGES: Final = 100_000

_decoder: Final = msgspec.json.Decoder(UpstreamPeriod)
_encoder: Final = msgspec.json.Encoder()


def run() -> list[Result]:
    """Both directions, and both together."""
    period = generate_period(SandboxOptions(messages=MESSAGES, reports=50))
    body = period.messages_body
    hashes = Hashing(memoryview(body)).hashes
    messages = read_messages(body, hashes=hashes)
    price = ReportPrice("Short Lease Report", 6_100)
    reports = ResolvedReports([price] * len(messages.report_keys), ())
    priced = build(messages, reports, TOKEN_ESTIMATE).priced

    def encode() -> bytes:
        items = encode_items(priced, 0, len(priced))
        return ANSWER_BEGIN + items + ANSWER_END

    def encode_alone() -> bytes:
        return _encoder.encode(UsageAnswer(priced.items(slice(0, len(priced)))))

    if encode() != encode_alone():
        raise AssertionError("the two encodings differ")
    decode_s, decode_alone_s, encode_s, encode_alone_s, hash_s = interleaved(
        lambda: read_messages(body, hashes=hashes),
        lambda: _decoder.decode(body),
        encode,
        encode_alone,
        lambda: Hashing(memoryview(body)).hashes,
    )
    both, alone = decode_s + encode_s, decode_alone_s + encode_alone_s
    each_ns = f"{both / MESSAGES * 1e9:,.0f} ns a message"
    return [
        maximum("decode + encode, to msgspec alone", both / alone, 1.3, each_ns),
        maximum(
            "decode, checks included",
            decode_s / decode_alone_s,
            1.2,
            f"hashing takes {hash_s / decode_alone_s:.2f} besides, while it arrives",
        ),
        maximum("encode, items included", encode_s / encode_alone_s, 1.3),
    ]
