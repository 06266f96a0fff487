"""Plays NHTSA's vPIC: decodes VINs, one by one and in batches, with its quirks.

It answers XML unless JSON is asked for where it looks for that; the `Count` of one row
is 134; it decodes the first 50 VINs of a batch, and answers in an order of its own.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple
from urllib.parse import unquote
from zlib import crc32

import msgspec
from aiohttp import web

from service.sandbox.decoding import decode
from service.sandbox.faults import ELSEWHERE, Reply

VPIC_PATH: Final = "/api"
"""Where its calls begin; the real ones begin at https://vpic.nhtsa.dot.gov/api."""
VEHICLE_PREFIX: Final = VPIC_PATH + "/vehicles/DecodeVinValues/"
BATCH_PATH: Final = VPIC_PATH + "/vehicles/DecodeVINValuesBatch/"
JSON_TYPE: Final = "application/json; charset=utf-8"
XML_TYPE: Final = "application/xml; charset=utf-8"

MOST_IN_BATCH: Final = 50
COUNT: Final = 134
MESSAGE: Final = (
    "Results returned successfully. NOTE: Any missing decoded values should be "
    "interpreted as NHTSA does not have data on the specific variable. Missing value "
    "should NOT be interpreted as an indication that a feature or technology is "
    "unavailable for a vehicle."
)
UNKNOWN_ACTION: Final = b'{"message":"No HTTP resource was found that matches the URI"}'
WRONG_METHOD: Final = b'{"message":"The resource does not support this HTTP method"}'

encode_json: Final = msgspec.json.Encoder().encode


class Question(NamedTuple):
    """The VINs that a request asks about, and how it wants to be answered."""

    vins: Sequence[str] = ()
    is_batch: bool = False
    is_json: bool = False
    refusal: Reply | None = None


class Vpic:
    """What is known of vehicles beside what their VINs say, and who was asked about."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.vins: Counter[str] = Counter()
        self._vehicles: dict[str, Mapping[str, object]] = {}

    def set_vehicle(self, vin: str, fields: Mapping[str, object] | None) -> None:
        """Answer these fields for a VIN instead of the decoded ones; `None` resets."""
        self._vehicles.pop(vin.upper(), None)
        if fields is not None:
            self._vehicles[vin.upper()] = dict(fields)

    async def receive(self, request: web.Request) -> Question:
        """Read what is asked, and count its VINs."""
        place = request.rel_url.raw_path.removeprefix(ELSEWHERE)
        head, _, vin = place.rpartition("/")
        # ASP.NET does not mind the case of a path, nor a slash at its end.
        if _is_same(place, BATCH_PATH):
            question = await _read_batch(request)
        elif _is_same(head, VEHICLE_PREFIX):
            question = _read_single(request, unquote(vin))
        else:
            return Question(refusal=Reply(404, UNKNOWN_ACTION, content_type=JSON_TYPE))
        self.vins.update(question.vins)
        return question

    def answer(self, question: Question) -> Reply:
        """Decode what is asked."""
        if question.refusal is not None:
            return question.refusal
        vins = question.vins
        if question.is_batch:
            rows = [self._find(vin) for vin in self._shuffle(vins[:MOST_IN_BATCH])]
            answer = _envelop(rows, count=len(rows), criteria="")
        else:
            rows = [self._find(vin) for vin in vins]
            criteria = f"VIN(s): {''.join(vins)}"
            answer = _envelop(rows, count=COUNT, criteria=criteria)
        return as_json(answer) if question.is_json else as_xml(answer)

    def _find(self, vin: str) -> dict[str, object]:
        row = decode(vin)
        row.update(self._vehicles.get(vin, ()))
        return row

    def _shuffle(self, vins: Sequence[str]) -> Sequence[str]:
        """Put them in an order that the seed decides, and never the one asked."""
        shuffled = sorted(vins, key=lambda vin: crc32(f"{self.seed} {vin}".encode()))
        return shuffled if shuffled != vins else [*shuffled[1:], *shuffled[:1]]


def is_vpic(path: str) -> bool:
    """Whether a raw path is one of vPIC's."""
    return path.removeprefix(ELSEWHERE).startswith(VPIC_PATH + "/")


def as_json(answer: Mapping[str, Any]) -> Reply:
    """The answer as the JSON that it is when asked for so."""
    return Reply(200, encode_json(answer), content_type=JSON_TYPE)


def as_xml(answer: Mapping[str, Any]) -> Reply:
    """The answer as the XML that it is otherwise."""
    rows = [_element("DecodedVINValues", _elements(row)) for row in answer["Results"]]
    told = {name: answer[name] for name in ("Count", "Message", "SearchCriteria")}
    inside = _elements(told) + _element("Results", "".join(rows))
    body = _element("Response", inside).encode()
    return Reply(200, body, content_type=XML_TYPE)


def _is_same(path: str, known: str) -> bool:
    return path.rstrip("/").lower() == known.rstrip("/").lower()


def _read_single(request: web.Request, vin: str) -> Question:
    asked = vin.strip().upper()
    return Question(
        vins=[asked] if asked else [],
        is_json=request.query.get("format", "").lower() == "json",
        refusal=_refuse_method(request, "GET"),
    )


async def _read_batch(request: web.Request) -> Question:
    """Read the form; `VIN,year` is allowed there, and the year is of no effect here."""
    form = await request.post()
    entries = str(form.get("data", "")).split(";")
    asked = [entry.partition(",")[0].strip().upper() for entry in entries]
    return Question(
        vins=[vin for vin in asked if vin],
        is_batch=True,
        is_json=str(form.get("format", "")).lower() == "json",
        refusal=_refuse_method(request, "POST"),
    )


def _refuse_method(request: web.Request, known: str) -> Reply | None:
    if request.method == known:
        return None
    return Reply(405, WRONG_METHOD, content_type=JSON_TYPE)


def _envelop(
    rows: list[dict[str, object]], *, count: int, criteria: str
) -> dict[str, object]:
    return {
        "Count": count,
        "Message": MESSAGE,
        "SearchCriteria": criteria,
        "Results": rows,
    }


def _elements(fields: Mapping[str, object]) -> str:
    return "".join(_element(name, escape(str(it))) for name, it in fields.items())


def _element(name: str, inside: str) -> str:
    return f"<{name}>{inside}</{name}>"
