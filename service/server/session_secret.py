"""The secret of sessions, which all workers share and a reload keeps."""

import os
import secrets
from typing import Final

from msgspec.structs import replace

from service.server.handover import ENVIRONMENT
from service.settings import Settings

VARIABLE: Final = "_COPILOT_USAGE_SESSION_SECRET"


def with_session_secret(settings: Settings) -> Settings:
    """Return settings with a secret of sessions; call it before workers are forked.

    Without one in the settings it is random. The program that a reload executes
    inherits it, so that browsers stay signed in.
    """
    if settings.auth.session_secret:
        return settings
    secret = ENVIRONMENT.setdefault(VARIABLE, secrets.token_urlsafe(32))
    # Other child processes need no secrets.
    os.environ.pop(VARIABLE, None)
    return replace(settings, auth=replace(settings.auth, session_secret=secret))
