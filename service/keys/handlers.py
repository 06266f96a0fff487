"""Endpoints of API keys, and of the sessions of browsers that sign in with a key."""

from http import HTTPStatus
from typing import Any, Final

import structlog
from aiohttp import web

from service.instants import US_PER_S, format_instant
from service.keys import problems
from service.keys.cached_keys import ApiKeys
from service.keys.model import (
    CreatedKey,
    KeyItem,
    KeyList,
    NewKey,
    SessionFacts,
    SignIn,
)
from service.keys.store import (
    DEFAULT_SCOPES,
    in_order,
    list_keys,
    new_key,
    revoke_key,
    store_key,
)
from service.storage.database import Database
from service.storage.uses import Use
from service.web.auth import AUTHENTICATOR, KEY, ApiKey, unauthorized
from service.web.bodies import JSON_PROBLEMS, JSON_TYPE, read_json
from service.web.credentials import credential_of
from service.web.http_cache.conditional import check_if_match
from service.web.problems import (
    CSRF_TOKEN_MISSING,
    STORAGE_UNAVAILABLE,
    UNAUTHORIZED,
)
from service.web.routes import (
    NO_STORE,
    Endpoints,
    NoParameters,
    RequestBody,
    json_answer,
)
from service.web.sessions import Session

DATABASE: Final = web.AppKey("keys_database", Database)
API_KEYS: Final = web.AppKey("api_keys", ApiKeys)
MAX_BODY_BYTES: Final = 16_384
BODY_TIMEOUT_S: Final = 10.0

log = structlog.get_logger()

endpoints = Endpoints()


@endpoints.post(
    "/keys",
    parameters=NoParameters,
    scope="admin",
    body=RequestBody(
        {JSON_TYPE: NewKey},
        "The name of an application, and the scopes of its key.",
        example={"name": "shop", "scopes": ["events:write", "events:read"]},
    ),
    answer=CreatedKey,
    status=HTTPStatus.CREATED,
    problems=JSON_PROBLEMS,
)
async def create_key(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Create an API key; only this answer has its text.

    It is valid in all workers within `events.key_ttl_s`.
    """
    wanted = await read_json(
        request, NewKey, max_bytes=MAX_BODY_BYTES, timeout_s=BODY_TIMEOUT_S
    )
    check_if_match(request, None)
    scopes = DEFAULT_SCOPES if wanted.scopes is None else wanted.scopes
    text, key = new_key(wanted.name, scopes, wanted.rate_per_s)
    await store_key(request.app[DATABASE], key)
    await request.app[API_KEYS].read_again()
    log.info("keys.added", **_logged(request, key))
    created = CreatedKey(
        id=key.id,
        key=text,
        name=key.application,
        scopes=in_order(key.scopes),
        rate_per_s=key.rate_per_s,
        created_at=format_instant(key.created_at),
    )
    return json_answer(created, NO_STORE, status=HTTPStatus.CREATED)


@endpoints.get("/keys", parameters=NoParameters, scope="admin", answer=KeyList)
async def read_keys(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """List all API keys, revoked ones too, without their texts."""
    stored = await list_keys(request.app[DATABASE], Use.OTHER)
    return json_answer(KeyList([_item(key) for key in stored]), NO_STORE)


@endpoints.delete(
    "/keys/{id}",
    parameters=NoParameters,
    scope="admin",
    media_types=(),
    status=HTTPStatus.NO_CONTENT,
    problems=(problems.KEY_NOT_FOUND,),
)
async def delete_key(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Revoke an API key for ever, and end its sessions.

    All workers refuse it within `events.key_ttl_s`.
    """
    check_if_match(request, None)
    key = await revoke_key(request.app[DATABASE], request.match_info["id"])
    log.info("keys.revoked", **_logged(request, key))
    api_keys = request.app[API_KEYS]
    api_keys.forget(key.id)
    await api_keys.read_again()
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=NO_STORE)


@endpoints.post(
    "/session",
    parameters=NoParameters,
    body=RequestBody(
        {JSON_TYPE: SignIn},
        "The key, unless a header has it.",
        example={"key": "cu_…"},
        is_required=False,
    ),
    answer=SessionFacts,
    headers={"Set-Cookie": "The session, which scripts cannot read."},
    problems=(UNAUTHORIZED, STORAGE_UNAVAILABLE, *JSON_PROBLEMS),
)
async def sign_in(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Sign a browser in with an API key, for at most `auth.session_s`.

    The session has the scopes of the key and ends when the key is revoked.
    """
    auth = request.app[AUTHENTICATOR]
    text = credential_of(request)
    if request.body_exists:
        body = await read_json(
            request, SignIn, max_bytes=MAX_BODY_BYTES, timeout_s=BODY_TIMEOUT_S
        )
        text = text or body.key
    key = await auth.find(text) if text else None
    if key is None:
        raise unauthorized()
    check_if_match(request, None)
    session = auth.sessions.create(key.id)
    response = json_answer(_facts(session, key), NO_STORE)
    is_https = auth.clients.is_https(request)
    auth.sessions.set_cookie(response, session, is_https=is_https)
    return response


@endpoints.get(
    "/session",
    parameters=NoParameters,
    answer=SessionFacts,
    problems=(UNAUTHORIZED, STORAGE_UNAVAILABLE),
)
async def read_session_facts(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Read the session of this browser, with the present scopes of its key."""
    found = await request.app[AUTHENTICATOR].session_of(request)
    if found is None:
        raise unauthorized()
    return json_answer(_facts(*found), NO_STORE)


@endpoints.delete(
    "/session",
    parameters=NoParameters,
    media_types=(),
    status=HTTPStatus.NO_CONTENT,
    headers={"Set-Cookie": "An empty session."},
    problems=(CSRF_TOKEN_MISSING,),
)
async def sign_out(
    request: web.Request, _parameters: NoParameters
) -> web.StreamResponse:
    """Sign this browser out; without a session, nothing happens."""
    auth = request.app[AUTHENTICATOR]
    session = auth.sessions.read(request)
    # A page of another origin cannot send a key in a header.
    if session and not credential_of(request):
        auth.check_csrf_token(request, session)
    check_if_match(request, None)
    response = web.Response(status=HTTPStatus.NO_CONTENT, headers=NO_STORE)
    is_https = auth.clients.is_https(request)
    auth.sessions.delete_cookie(response, is_https=is_https)
    return response


def _item(key: ApiKey) -> KeyItem:
    is_valid = key.revoked_at is None
    return KeyItem(
        id=key.id,
        name=key.application,
        scopes=in_order(key.scopes),
        rate_per_s=key.rate_per_s,
        created_at=format_instant(key.created_at),
        revoked_at=None if is_valid else format_instant(key.revoked_at or 0),
    )


def _facts(session: Session, key: ApiKey) -> SessionFacts:
    return SessionFacts(
        name=key.application,
        scopes=in_order(key.scopes),
        expires_at=format_instant(int(session.expires_at * US_PER_S)),
        csrf_token=session.csrf_token,
    )


def _logged(request: web.Request, key: ApiKey) -> dict[str, Any]:
    """Return the values of a log line about a changed key."""
    return {
        "key_id": key.id,
        "application": key.application,
        "scopes": in_order(key.scopes),
        "actor_key_id": request[KEY].id,
    }
