"""The endpoint of exports: all items of a period as one file, sent while it is made."""

import asyncio
from http import HTTPStatus
from typing import Annotated, Final

from aiohttp import hdrs, web
from msgspec import Meta

from service.observability.metrics import SUCCESS
from service.usage import metrics, problems
from service.usage.handlers import (
    PLAN_HEADERS,
    REFRESH_PROBLEMS,
    PlanParameters,
    find_view,
)
from service.usage.periods import problems as period_problems
from service.usage.periods.export_files import (
    FILES,
    MEDIA_TYPES,
    ExportFormat,
)
from service.usage.periods.handlers import LANES
from service.usage.periods.reading.reader import UsageView
from service.usage.snapshot import REVISION_HEADER
from service.web.client_stream import ClientStream
from service.web.connection_reset import reset_connection
from service.web.header_values import joined
from service.web.http_cache.conditional import check_if_match, is_not_modified
from service.web.http_cache.encodings import CONTENT_TYPES
from service.web.http_cache.responses import cache_headers
from service.web.problems import STORAGE_UNAVAILABLE
from service.web.request_context import (
    CACHE_RESULT,
    LOG_VALUES,
    REQUEST_ID,
    REQUEST_ID_HEADER,
)
from service.web.routes import Endpoints
from service.web.system import VERSION

SLICE_BYTES: Final = 64 * 1024
CURRENT: Final = "current"

endpoints = Endpoints()


class ExportParameters(PlanParameters, frozen=True, forbid_unknown_fields=True):
    """The parameters of an export."""

    format: Annotated[ExportFormat, Meta(description="The format of the file.")] = (
        ExportFormat.CSV
    )


# Registered before `/usage/{message_id}`, which matches this path too.
@endpoints.get(
    "/usage/export",
    parameters=ExportParameters,
    scope="usage:read",
    media_types=tuple(MEDIA_TYPES.values()),
    problems=(
        *REFRESH_PROBLEMS,
        period_problems.PERIOD_DAMAGED,
        problems.EXPORTS_FULL,
        problems.EXPORT_TIMEOUT,
        STORAGE_UNAVAILABLE,
    ),
    headers={
        **PLAN_HEADERS,
        "Content-Disposition": "The name of the file, such as usage-2024-04-29.csv.",
    },
)
async def export_usage(
    request: web.Request, parameters: ExportParameters
) -> web.StreamResponse:
    """Export all items of a period with their sources and steps, as one file.

    The file is sent while it is made: if that fails midway, the connection is reset.
    """
    form = parameters.format
    async with request.app[LANES].exports.enter(request):
        view = await find_view(request, parameters)
        request[LOG_VALUES] = view.log_values
        request[CACHE_RESULT] = view.freshness.result
        name = parameters.period or view.summary.begins_on or CURRENT
        headers = _headers(view, name, form)
        check_if_match(request, headers[hdrs.ETAG])
        known = joined(request.headers, hdrs.IF_NONE_MATCH)
        if is_not_modified(known, headers[hdrs.ETAG]):
            return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=headers)
        headers[REQUEST_ID_HEADER] = request[REQUEST_ID]
        response = web.StreamResponse(headers=headers)
        if request.method != hdrs.METH_HEAD:
            await _send(request, response, view, form)
        return response


def _headers(view: UsageView, name: str, form: ExportFormat) -> dict[str, str]:
    media_type, revision = MEDIA_TYPES[form], view.headers[REVISION_HEADER]
    file_name = f"usage-{name}.{form}"
    return {
        **cache_headers(view.headers, view.freshness),
        # Weak: another version of a library may write other bytes.
        hdrs.ETAG: f'W/"{VERSION}-{revision}-{view.plan.id}-{file_name}"',
        hdrs.CONTENT_TYPE: CONTENT_TYPES.get(media_type, media_type),
        hdrs.CONTENT_DISPOSITION: f'attachment; filename="{file_name}"',
    }


async def _send(
    request: web.Request,
    response: web.StreamResponse,
    view: UsageView,
    form: ExportFormat,
) -> None:
    stream, outcome = ClientStream(request, response), SUCCESS
    try:
        file = await asyncio.to_thread(FILES[form], view.plan.id)
        async for rows in view.items():
            await _write(stream, response, await asyncio.to_thread(file.add, rows))
        await _write(stream, response, await asyncio.to_thread(file.end))
        await stream.finish()
    except BaseException as error:
        outcome = type(error).__name__
        # The client must not take a part for the whole file.
        transport = request.transport
        if response.prepared and transport is not None and not transport.is_closing():
            reset_connection(transport)
        raise
    finally:
        metrics.export_ended(form, outcome)


async def _write(
    stream: ClientStream, response: web.StreamResponse, content: bytes
) -> None:
    """Send a part, and the head before the first one."""
    if not content:
        return
    if not response.prepared:
        await stream.start()
    view = memoryview(content)
    for start in range(0, len(view), SLICE_BYTES):
        await stream.write(view[start : start + SLICE_BYTES])
