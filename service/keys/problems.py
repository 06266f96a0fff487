"""Problems of the keys endpoints, by the error that causes them."""

from http import HTTPStatus
from typing import Final

from service.keys import errors
from service.web.problems import INVALID_BODY, Kinds, ProblemKind

KEY_NOT_FOUND: Final = ProblemKind(
    "key_not_found", HTTPStatus.NOT_FOUND, "There is no such valid key"
)

KINDS: Final[Kinds] = {
    errors.BadKey: INVALID_BODY,
    errors.KeyNotFound: KEY_NOT_FOUND,
}
