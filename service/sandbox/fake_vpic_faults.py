"""The faults of vPIC: those of any upstream, and some that only vPIC has."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from service.sandbox.fake_vpic import JSON_TYPE, as_json, as_xml
from service.sandbox.faults import FAULTS, Call, Fault, Reply

DENIED: Final = (
    "<!DOCTYPE html><html><head><title>Access Denied</title></head>"
    "<body><h1>Access Denied</h1></body></html>"
)
OTHER_MAKER: Final = "ZZZ"
"""No real VIN begins with it."""

VpicRow = dict[str, Any]


async def wrong_type(call: Call) -> web.StreamResponse:
    # For a single VIN the year has the wrong type, for a batch the list of rows.
    if call.request.method == "POST":
        return _corrupt(call, lambda rows: {row["VIN"]: row for row in rows})
    return _corrupt(call, lambda rows: [_with_year_as_number(row) for row in rows])


async def missing_field(call: Call) -> web.StreamResponse:
    return _corrupt(call, lambda rows: [_without_make(row) for row in rows])


async def forbidden(_: Call) -> web.StreamResponse:
    return web.Response(status=403, text=DENIED, content_type="text/html")


async def xml(call: Call) -> web.StreamResponse:
    return _corrupt(call, list, as_xml)


async def empty_list(call: Call) -> web.StreamResponse:
    return _corrupt(call, lambda _: [])


async def other_vins(call: Call) -> web.StreamResponse:
    return _corrupt(call, lambda rows: [_of_another(row) for row in rows])


async def missing_rows(call: Call) -> web.StreamResponse:
    return _corrupt(call, lambda rows: rows[: len(rows) // 2])


VPIC_FAULTS: Final[dict[str, Fault]] = FAULTS | {
    fault.__name__: fault
    for fault in (
        wrong_type,
        missing_field,
        forbidden,
        xml,
        empty_list,
        other_vins,
        missing_rows,
    )
}
"""Every switch of `Faults` by its name, in their order, for vPIC."""


def _corrupt(
    call: Call,
    change: Callable[[list[VpicRow]], object],
    write: Callable[[dict[str, Any]], Reply] = as_json,
) -> web.Response:
    """Answer with changed rows; a reply without JSON rows is sent unchanged."""
    reply = call.reply
    if reply.status == 200 and reply.content_type == JSON_TYPE:
        answer = msgspec.json.decode(reply.body)
        reply = write({**answer, "Results": change(answer["Results"])})
    headers = {"Content-Type": reply.content_type}
    return web.Response(status=reply.status, body=reply.body, headers=headers)


def _without_make(row: VpicRow) -> VpicRow:
    return {name: row[name] for name in row if name not in ("Make", "ErrorCode")}


def _with_year_as_number(row: VpicRow) -> VpicRow:
    return {**row, "ModelYear": 2014}


def _of_another(row: VpicRow) -> VpicRow:
    return {**row, "VIN": OTHER_MAKER + row["VIN"][len(OTHER_MAKER) :]}
