"""The faults of vPIC: those of any upstream, and ways in which it alone goes wrong."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
from aiohttp import web

from service.sandbox.faults import FAULTS, Call, Fault, Reply
from service.sandbox.vpic import JSON_TYPE, as_json, as_xml

DENIED: Final = (
    "<!DOCTYPE html><html><head><title>Access Denied</title></head>"
    "<body><h1>Access Denied</h1></body></html>"
)
OTHER_MAKER: Final = "ZZZ"
"""No VIN that is asked for in earnest begins so."""

Row = dict[str, Any]


async def wrong_type(call: Call) -> web.StreamResponse:
    # Two ways to be wrong: of one VIN the year's type, of a batch that of all rows.
    if call.request.method == "POST":
        return _spoil(call, lambda rows: {row["VIN"]: row for row in rows})
    return _spoil(call, lambda rows: [_with_year_as_number(row) for row in rows])


async def missing_field(call: Call) -> web.StreamResponse:
    return _spoil(call, lambda rows: [_without_make(row) for row in rows])


async def forbidden(_: Call) -> web.StreamResponse:
    return web.Response(status=403, text=DENIED, content_type="text/html")


async def xml(call: Call) -> web.StreamResponse:
    return _spoil(call, list, as_xml)


async def empty_list(call: Call) -> web.StreamResponse:
    return _spoil(call, lambda _: [])


async def other_vins(call: Call) -> web.StreamResponse:
    return _spoil(call, lambda rows: [_of_another(row) for row in rows])


async def missing_rows(call: Call) -> web.StreamResponse:
    return _spoil(call, lambda rows: rows[: len(rows) // 2])


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
"""Every switch of `Faults` by its name, in their order, as vPIC plays it."""


def _spoil(
    call: Call,
    change: Callable[[list[Row]], object],
    write: Callable[[dict[str, Any]], Reply] = as_json,
) -> web.Response:
    """Answer with the rows changed; what has no rows that can be is sent as it is."""
    reply = call.reply
    if reply.status == 200 and reply.content_type == JSON_TYPE:
        answer = msgspec.json.decode(reply.body)
        reply = write({**answer, "Results": change(answer["Results"])})
    headers = {"Content-Type": reply.content_type}
    return web.Response(status=reply.status, body=reply.body, headers=headers)


def _without_make(row: Row) -> Row:
    return {name: row[name] for name in row if name not in ("Make", "ErrorCode")}


def _with_year_as_number(row: Row) -> Row:
    return {**row, "ModelYear": 2014}


def _of_another(row: Row) -> Row:
    return {**row, "VIN": OTHER_MAKER + row["VIN"][len(OTHER_MAKER) :]}
