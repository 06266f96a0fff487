"""Secrets of webhooks, and signatures by Standard Webhooks."""

import base64
import binascii
import secrets
from datetime import UTC, datetime
from typing import Final

from standardwebhooks import Webhook

from service.instants import US_PER_S
from service.usage.budgets.errors import BadBudget

PREFIX: Final = "whsec_"
SECRET_BYTES: Final = 32
MIN_BYTES: Final = 24
MAX_BYTES: Final = 64
"""Bounds of the specification for symmetric secrets."""


def new_secret() -> str:
    """Return a secret of 256 random bits."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def check_secret(secret: str) -> None:
    """Raise `BadBudget` for a secret that receivers would not accept."""
    try:
        key = base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not secret.startswith(PREFIX) or not MIN_BYTES <= len(key) <= MAX_BYTES:
        raise BadBudget(
            f"webhook.secret: expected {PREFIX} and {MIN_BYTES} to {MAX_BYTES} bytes "
            "in base64"
        )


def signed_headers(secret: str, message_id: str, at: int, body: str) -> dict[str, str]:
    """Return the headers that identify and sign a message, sent at an instant."""
    moment = datetime.fromtimestamp(at // US_PER_S, UTC)
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(at // US_PER_S),
        "webhook-signature": Webhook(secret).sign(message_id, moment, body),
    }
