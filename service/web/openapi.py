"""The OpenAPI document and its page, generated from the endpoints' declarations."""

from aiohttp import web

from service.web.routes import Endpoints


def add_documentation(app: web.Application, endpoints: Endpoints) -> None:
    """Serve `/openapi.json` and `/docs`."""
