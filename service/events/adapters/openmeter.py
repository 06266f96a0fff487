"""OpenMeter's ingest, which takes CloudEvents as plain JSON, too.

https://openmeter.io/docs/api/cloud#tag/events
"""

from typing import Final

from service.events.adapters import cloudevents

MEDIA_TYPES: Final = (*cloudevents.MEDIA_TYPES, "application/json")
"""An object is one event, and a list is a batch, whatever the type states."""
