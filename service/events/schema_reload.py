"""Schemas that are read again while the service runs: all of them, or none.

A worker first checks the schemas. It uses them after all workers have checked the same
ones, which another order says.
"""

import asyncio
from typing import Final

from service.events.errors import SchemasRefused
from service.events.parsing import EventParser
from service.events.schemas import EventTypes, load_types, types_folder
from service.settings import EventsSettings, SettingsError

MAX_CHECKED: Final = 4
"""Revisions that are kept for use: operators may reload at the same time."""


class SchemaReload:
    """The schemas of one worker: those in use, and those that were checked."""

    def __init__(self, settings: EventsSettings, parser: EventParser) -> None:
        self._settings = settings
        self._parser = parser
        self._checked: dict[str, EventTypes] = {}

    @property
    def current(self) -> EventTypes:
        """The schemas in use."""
        return self._parser.types

    async def check(self) -> EventTypes:
        """Read and check all schemas without using them; raises `SchemasRefused`."""
        try:
            folder = types_folder(self._settings)
            types = await asyncio.to_thread(load_types, self._settings, folder)
        except SettingsError as error:
            raise SchemasRefused(str(error)) from error
        self._checked.pop(types.revision, None)
        self._checked[types.revision] = types
        while len(self._checked) > MAX_CHECKED:
            self._checked.pop(next(iter(self._checked)))
        return types

    def use(self, revision: str) -> None:
        """Use the schemas of a revision that was checked; raises `SchemasRefused`."""
        types = self._checked.get(revision)
        if types is not None:
            self._parser.types = types
        # A worker that has just started has the new schemas already.
        elif revision != self.current.revision:
            raise SchemasRefused("the schemas have changed meanwhile")
