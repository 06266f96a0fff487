"""A fake of NHTSA's vPIC: it decodes VINs, single ones and batches.

It has vPIC's quirks. It answers in XML unless the query (of a single VIN) or the form
(of a batch) requests JSON. The `Count` of a single row is 134. Only the first 50 VINs
of a batch are decoded, and the rows come in another order than requested.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final, NamedTuple
from urllib.parse import unquote
from zlib import crc32

import msgspec
from aiohttp import web

from service.sandbox.faults import REDIRECT_PREFIX, Reply
from service.sandbox.vin_decoding import decode, makers_of

VPIC_PATH: Final = "/api"
"""The path of the fake; the real one is https://vpic.nhtsa.dot.gov/api."""
VEHICLE_PREFIX: Final = VPIC_PATH + "/vehicles/DecodeVinValues/"
WMI_PREFIX: Final = VPIC_PATH + "/vehicles/DecodeWMI/"
BATCH_PATH: Final = VPIC_PATH + "/vehicles/DecodeVINValuesBatch/"
JSON_TYPE: Final = "application/json; charset=utf-8"
XML_TYPE: Final = "application/xml; charset=utf-8"

MAX_BATCH_VINS: Final = 50
# The `Count` of a single VIN in vPIC's answers, which have one row.
SINGLE_COUNT: Final = 134
MESSAGE: Final = (
    "Results returned successfully. NOTE: Any missing decoded values should be "
    "interpreted as NHTSA does not have data on the specific variable. Missing value "
    "should NOT be interpreted as an indication that a feature or technology is "
    "unavailable for a vehicle."
)
UNKNOWN_ACTION: Final = b'{"message":"No HTTP resource was found that matches the URI"}'
WRONG_METHOD: Final = b'{"message":"The resource does not support this HTTP method"}'

encode_json: Final = msgspec.json.Encoder().encode


class VinQuery(NamedTuple):
    """The VINs of a request, and the form of the answer."""

    vins: Sequence[str] = ()
    years: Sequence[str] = ()
    """The hint of each VIN, empty without one."""
    wmi: str = ""
    """The code of a manufacturer, in a request for that."""
    is_batch: bool = False
    is_json: bool = False
    refusal: Reply | None = None


class FakeVpic:
    """Decodes VINs and counts them; fields of a vehicle can be replaced."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.vins: Counter[str] = Counter()
        self._vehicles: dict[str, Mapping[str, object]] = {}

    def set_vehicle(self, vin: str, fields: Mapping[str, object] | None) -> None:
        """Replace decoded fields of a VIN by these; `None` resets."""
        self._vehicles.pop(vin.upper(), None)
        if fields is not None:
            self._vehicles[vin.upper()] = dict(fields)

    async def receive(self, request: web.Request) -> VinQuery:
        """Parse a request, and count its VINs."""
        path = request.rel_url.raw_path.removeprefix(REDIRECT_PREFIX)
        head, _, vin = path.rpartition("/")
        # ASP.NET ignores the case of a path and a slash at its end.
        if _is_same(path, BATCH_PATH):
            query = await _parse_batch(request)
        elif _is_same(head, VEHICLE_PREFIX):
            query = _parse_single(request, unquote(vin))
        elif _is_same(head, WMI_PREFIX):
            query = _parse_wmi(request, unquote(vin))
        else:
            return VinQuery(refusal=Reply(404, UNKNOWN_ACTION, content_type=JSON_TYPE))
        self.vins.update(query.vins)
        return query

    def reply_to(self, query: VinQuery) -> Reply:
        """Return the reply without a fault: the decoded VINs, or the refusal."""
        if query.refusal is not None:
            return query.refusal
        pairs = list(zip(query.vins, query.years, strict=True))
        if query.wmi:
            rows = makers_of(query.wmi)
            answer = _envelope(rows, len(rows), f"WMI:{query.wmi}")
        elif query.is_batch:
            rows = [self._find(*each) for each in self._shuffle(pairs[:MAX_BATCH_VINS])]
            answer = _envelope(rows, len(rows), "")
        else:
            rows = [self._find(*each) for each in pairs]
            answer = _envelope(rows, SINGLE_COUNT, f"VIN(s): {''.join(query.vins)}")
        return as_json(answer) if query.is_json else as_xml(answer)

    def _find(self, vin: str, year: str) -> dict[str, object]:
        row = decode(vin, year)
        row.update(self._vehicles.get(vin, ()))
        return row

    def _shuffle(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        """Order VINs by the seed, never in the requested order."""
        # Clients have to match rows by their VIN.
        shuffled = sorted(
            pairs, key=lambda pair: crc32(f"{self.seed} {pair[0]}".encode())
        )
        return shuffled if shuffled != pairs else [*shuffled[1:], *shuffled[:1]]


def is_vpic(path: str) -> bool:
    """Return True for a raw path of vPIC."""
    return path.removeprefix(REDIRECT_PREFIX).startswith(VPIC_PATH + "/")


def as_json(answer: Mapping[str, Any]) -> Reply:
    """Return the answer as JSON."""
    return Reply(200, encode_json(answer), content_type=JSON_TYPE)


def as_xml(answer: Mapping[str, Any]) -> Reply:
    """Return the answer as XML, the default of vPIC."""
    rows = [_element("DecodedVINValues", _elements(row)) for row in answer["Results"]]
    values = {name: answer[name] for name in ("Count", "Message", "SearchCriteria")}
    content = _elements(values) + _element("Results", "".join(rows))
    body = _element("Response", content).encode()
    return Reply(200, body, content_type=XML_TYPE)


def _is_same(path: str, expected: str) -> bool:
    return path.rstrip("/").lower() == expected.rstrip("/").lower()


def _parse_single(request: web.Request, vin: str) -> VinQuery:
    vin = vin.strip().upper()
    year = request.query.get("modelyear", "")
    return VinQuery(
        vins=[vin] if vin else [],
        years=[year] if vin else [],
        is_json=request.query.get("format", "").lower() == "json",
        refusal=_refuse_method(request, "GET"),
    )


def _parse_wmi(request: web.Request, wmi: str) -> VinQuery:
    return VinQuery(
        wmi=wmi.strip().upper(),
        is_json=request.query.get("format", "").lower() == "json",
        refusal=_refuse_method(request, "GET"),
    )


async def _parse_batch(request: web.Request) -> VinQuery:
    """Parse the form; an entry is a VIN, or `VIN,YEAR` with a hint."""
    form = await request.post()
    entries = str(form.get("data", "")).split(";")
    split = [entry.partition(",") for entry in entries]
    pairs = [(vin.strip().upper(), year.strip()) for vin, _, year in split]
    return VinQuery(
        vins=[vin for vin, _ in pairs if vin],
        years=[year for vin, year in pairs if vin],
        is_batch=True,
        is_json=str(form.get("format", "")).lower() == "json",
        refusal=_refuse_method(request, "POST"),
    )


def _refuse_method(request: web.Request, allowed: str) -> Reply | None:
    if request.method == allowed:
        return None
    return Reply(405, WRONG_METHOD, content_type=JSON_TYPE)


def _envelope(
    rows: list[dict[str, object]], count: int, criteria: str
) -> dict[str, object]:
    return {
        "Count": count,
        "Message": MESSAGE,
        "SearchCriteria": criteria,
        "Results": rows,
    }


def _elements(fields: Mapping[str, object]) -> str:
    return "".join(_element(name, escape(str(value))) for name, value in fields.items())


def _element(name: str, content: str) -> str:
    return f"<{name}>{content}</{name}>"
