"""Makes a period: the messages and reports an upstream would hold, from a seed."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Final

import msgspec
from msgspec import UNSET, Struct, UnsetType

from service.sandbox.options import SandboxOptions
from service.sandbox.phrases import ODDITIES, QUESTIONS, name_report

FIRST_ID: Final = 1000
START: Final = datetime(2024, 4, 29, tzinfo=UTC)
SPAN_DAYS: Final = 124
DAY_MS: Final = 24 * 60 * 60 * 1000
QUIET_SPELLS: Final = 5
QUIET_SPELL_DAYS: Final = (2, 6)

ODD_SHARE: Final = 0.06
LONG_SHARE: Final = 0.06

REPORT_SHARE: Final = 0.3
BAD_ID_EVERY: Final = 30
UNKNOWN_IDS: Final = 5
UNUSABLE_IDS: Final[tuple[object, ...]] = (None, "", True, 1.5, {}, [])
STRING_ID_EVERY: Final = 50
CREDIT_COSTS: Final = (20, 120)


class Period(Struct, frozen=True, kw_only=True):
    """All that the upstream answers: one body for the messages, one for each report.

    `reports` is keyed by the id as it stands in the path, percent-decoded.
    """

    messages_body: bytes
    reports: dict[str, bytes]


class _Message(Struct, gc=False):
    id: int
    text: str
    timestamp: str
    report_id: object | UnsetType = UNSET


def generate_period(options: SandboxOptions) -> Period:
    """Make the period of these sizes and this seed; always the same bytes.

    About 30 % of the messages name a report, and every report is named where
    there are messages enough; of those ids one in 30 is unknown to the upstream
    and one in 30 is no usable id. A million messages take seconds.
    """
    rng = Random(options.seed)  # noqa: S311
    ids = _draw_ids(rng, options.reports + UNKNOWN_IDS)
    known, unknown = ids[: options.reports], ids[options.reports :]
    named = [_as_named(number, known[number]) for number in range(len(known))]
    references = _draw_references(rng, options.messages, named, unknown)
    times = _draw_times(rng, options.messages)
    messages = [
        _Message(number, _write_text(rng), time, reference)
        for number, (time, reference) in enumerate(
            zip(times, references, strict=True), FIRST_ID
        )
    ]
    return Period(
        messages_body=msgspec.json.encode({"messages": messages}),
        reports=dict(_encode_reports(rng, known)),
    )


def _draw_ids(rng: Random, count: int) -> list[int]:
    return rng.sample(range(FIRST_ID, 10 * (FIRST_ID + count)), count)


def _as_named(number: int, report_id: int) -> int | str:
    """Write a few ids as strings, each the same way in all messages."""
    is_string = number % STRING_ID_EVERY == STRING_ID_EVERY - 1
    return str(report_id) if is_string else report_id


def _draw_references(
    rng: Random, messages: int, known: list[int | str], unknown: list[int]
) -> list[object]:
    """Give each message its `report_id`, `UNSET` where it names none."""
    count = round(messages * REPORT_SHARE)
    bad = count // BAD_ID_EVERY
    drawn: list[object] = [rng.choice(unknown) for _ in range(bad)]
    drawn += [UNUSABLE_IDS[number % len(UNUSABLE_IDS)] for number in range(bad)]
    if known:
        drawn += known[: count - len(drawn)]
        drawn += rng.choices(known, k=count - len(drawn))
    rng.shuffle(drawn)
    references: list[object] = [UNSET] * messages
    for position, reference in zip(
        rng.sample(range(messages), len(drawn)), drawn, strict=True
    ):
        references[position] = reference
    return references


def _draw_times(rng: Random, count: int) -> Iterator[str]:
    """Yield ascending timestamps, busiest about noon, with quiet spells of days."""
    days = _draw_busy_days(rng)
    moments_ms = sorted(
        rng.choice(days) * DAY_MS + int((rng.random() + rng.random()) / 2 * DAY_MS)
        for _ in range(count)
    )
    for moment_ms in moments_ms:
        moment = START + timedelta(milliseconds=moment_ms)
        yield moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _draw_busy_days(rng: Random) -> list[int]:
    quiet = {
        first + offset
        for first in rng.sample(range(1, SPAN_DAYS - 1), QUIET_SPELLS)
        for offset in range(rng.randint(*QUIET_SPELL_DAYS))
    }
    return [day for day in range(SPAN_DAYS) if day not in quiet]


def _write_text(rng: Random) -> str:
    kind = rng.random()
    if kind < ODD_SHARE:
        return rng.choice(rng.choice(ODDITIES))
    if kind < ODD_SHARE + LONG_SHARE:
        return f"{_ask(rng)} {_ask(rng)}"
    return _ask(rng)


def _ask(rng: Random) -> str:
    wording, fillings = rng.choice(QUESTIONS)
    return wording % tuple([rng.choice(filling) for filling in fillings])


def _encode_reports(rng: Random, ids: list[int]) -> Iterator[tuple[str, bytes]]:
    encode = msgspec.json.Encoder().encode
    for number, report_id in enumerate(ids):
        report = {
            "id": report_id,
            "name": name_report(number),
            "credit_cost": rng.randint(*CREDIT_COSTS),
        }
        yield str(report_id), encode(report)
