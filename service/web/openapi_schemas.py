"""JSON Schemas of the types that endpoints declare."""

import inspect
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, Final, NamedTuple, get_args

import msgspec

from service.web.problems import Problem
from service.web.routes import Endpoints, RequestBody

JsonObject = dict[str, Any]

SCHEMAS: Final = "#/components/schemas/"


class Schemas(NamedTuple):
    """Schemas of all types in declarations: by type, and as components."""

    references: dict[Any, JsonObject]
    components: dict[str, JsonObject]
    parameters: frozenset[str]
    """Components that only describe parameters, so they are not published."""

    @classmethod
    def of(cls, endpoints: Endpoints) -> "Schemas":
        """Return the schemas of the endpoints' parameters and bodies."""
        parameters = [each.parameters for each in endpoints]
        declared = [each.answer for each in endpoints if each.answer is not None]
        answers = [kind for each in declared for kind in _alternatives(each)]
        bodies = [kind for each in endpoints for kind in _body_types(each.body)]
        structs = list(_structs(answers))
        types = list(dict.fromkeys([*parameters, *answers, *bodies, *structs, Problem]))
        references, components = msgspec.json.schema_components(
            types, ref_template=SCHEMAS + "{name}"
        )
        by_type = dict(zip(types, references, strict=True))
        for each in declared:
            if len(kinds := _alternatives(each)) > 1:
                by_type[each] = {"anyOf": [by_type[kind] for kind in kinds]}
        names = frozenset(_component_name(by_type[each]) for each in parameters)
        schemas = cls(by_type, components, names)
        # Corrects the members that msgspec calls optional.
        for struct in structs:
            schemas.resolve(struct)["required"] = _always_sent(struct)
        return schemas

    def resolve(self, kind: Any) -> JsonObject:
        """Return the schema of a type, following its reference."""
        reference = self.references[kind]
        return self.components.get(_component_name(reference), reference)

    def published(self) -> dict[str, JsonObject]:
        """Return the published components by name."""
        names = sorted(self.components.keys() - self.parameters)
        return {name: self.components[name] for name in names}


def _body_types(body: RequestBody | None) -> list[Any]:
    """Return the types of a JSON body of a request."""
    kinds = body.media_types.values() if body else ()
    return [kind for kind in kinds if kind is not None]


def _alternatives(answer: Any) -> tuple[Any, ...]:
    """Return the types of a union of structs, which msgspec does not describe."""
    return get_args(answer) if isinstance(answer, UnionType) else (answer,)


def _component_name(reference: JsonObject) -> str:
    return str(reference.get("$ref", "")).removeprefix(SCHEMAS)


def _always_sent(struct: type[msgspec.Struct]) -> list[str]:
    """Return the members of an answer that cannot be UNSET."""
    # msgspec's own schema calls fields with a default optional, as decoding does.
    return [
        field.encode_name
        for field in msgspec.structs.fields(struct)
        if not _can_be_unset(field.type)
    ]


def _can_be_unset(kind: object) -> bool:
    # The union may be inside of an annotation.
    parts = get_args(kind)
    return msgspec.UnsetType in parts or any(map(_can_be_unset, parts[:1]))


def _structs(types: Iterable[Any]) -> Iterator[type[msgspec.Struct]]:
    """Yield all structs among the types, and those inside them."""
    for kind in types:
        if inspect.isclass(kind) and issubclass(kind, msgspec.Struct):
            yield kind
            yield from _structs(each.type for each in msgspec.structs.fields(kind))
        yield from _structs(get_args(kind))
