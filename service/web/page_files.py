"""Files of pages, with their codings, and the answers that send them."""

import zlib
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Final, NamedTuple

import zstandard
from aiohttp import hdrs, web

from service.web.header_values import joined
from service.web.http_cache.conditional import is_not_modified
from service.web.http_cache.encodings import (
    GZIP,
    GZIP_WINDOW,
    IDENTITY,
    ZSTD,
    Coding,
    Variant,
    digest_of,
)
from service.web.negotiation import codings_for

BROTLI: Final[Coding] = "br"
CODINGS: Final = (BROTLI, ZSTD, GZIP, IDENTITY)
"""The available codings, best first."""
SUFFIXES: Final = {BROTLI: ".br", GZIP: ".gz", IDENTITY: ""}
"""Suffixes of the files that a build has compressed."""

CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".ico": "image/x-icon",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
    ".woff2": "font/woff2",
}
UNKNOWN_TYPE: Final = "application/octet-stream"

REVALIDATE: Final = "no-cache"
CACHE_FOR_EVER: Final = "public, max-age=31536000, immutable"

_GZIP_LEVEL: Final = 9
_ZSTD_LEVEL: Final = 12
"""Higher levels take three times as long, and save 1 %."""


class PageFile(NamedTuple):
    """A file, with its media type and a variant for each available coding."""

    content_type: str
    variants: Mapping[Coding, Variant]

    @classmethod
    def read(cls, path: Path) -> "PageFile":
        """Read a file and its compressed variants."""
        by_coding = {
            each: path.with_name(path.name + suffix)
            for each, suffix in SUFFIXES.items()
        }
        variants = {
            coding: _variant(coding, file.read_bytes())
            for coding, file in by_coding.items()
            if coding == IDENTITY or file.is_file()
        }
        return cls(_type_of(path.suffix), variants)

    @classmethod
    def compressed(cls, suffix: str, body: bytes) -> "PageFile":
        """Return a file that no build has compressed; a megabyte takes 0.1 s."""
        gzip = zlib.compressobj(_GZIP_LEVEL, wbits=GZIP_WINDOW)
        bodies = {
            IDENTITY: body,
            GZIP: gzip.compress(body) + gzip.flush(),
            ZSTD: zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(body),
        }
        variants = {coding: _variant(coding, each) for coding, each in bodies.items()}
        return cls(_type_of(suffix), variants)

    def best(self, accept_encoding: str) -> Variant:
        """Return the best available variant for `Accept-Encoding`."""
        codings = codings_for(accept_encoding, CODINGS)
        return next(self.variants[each] for each in codings if each in self.variants)


def send_file(
    request: web.Request, file: PageFile, headers: Mapping[str, str]
) -> web.Response:
    """Answer with the best variant for the client, or 304 if the client has it."""
    variant = file.best(joined(request.headers, hdrs.ACCEPT_ENCODING) or "")
    sent = {**headers, hdrs.ETAG: variant.etag, hdrs.VARY: hdrs.ACCEPT_ENCODING}
    if is_not_modified(joined(request.headers, hdrs.IF_NONE_MATCH), variant.etag):
        return web.Response(status=HTTPStatus.NOT_MODIFIED, headers=sent)
    sent[hdrs.CONTENT_TYPE] = file.content_type
    if variant.coding != IDENTITY:
        sent[hdrs.CONTENT_ENCODING] = variant.coding
    return web.Response(body=variant.body, headers=sent)


def _type_of(suffix: str) -> str:
    return CONTENT_TYPES.get(suffix, UNKNOWN_TYPE)


def _variant(coding: Coding, body: bytes) -> Variant:
    return Variant(coding, body, f'"{digest_of(body)}"')
