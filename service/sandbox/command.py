"""The options of `copilot-usage sandbox`, generated from the structs that they fill.

Each field of `SandboxOptions` and `Faults` is an option. Name, type, default and help
(the string below the field) come from the struct.
"""

import ast
import inspect
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import Annotated, Any, Final, get_type_hints

import msgspec
import typer
from msgspec import Struct
from typer.core import TyperCommand

from service.sandbox.fake_vpic import BATCH_PATH, VEHICLE_PREFIX
from service.sandbox.faults import MESSAGES_PATH, REPORTS_PREFIX
from service.sandbox.options import SWITCHES as FAULT_SWITCHES
from service.sandbox.options import Faults, SandboxOptions
from service.sandbox.server import running_sandbox

PATHS: Final = {
    "messages": MESSAGES_PATH,
    "a report": REPORTS_PREFIX + "{id}",
    "a vehicle": VEHICLE_PREFIX + "{vin}?format=json",
    "vehicles, by POST": BATCH_PATH,
}
ALWAYS: Final = "1"
FAULT_OPTIONS: Final = {"path": "fault_path", "times": "fault_times"}
"""Fields whose names would not show that they belong to faults."""


class BadOption(Exception):
    """The value of an option is invalid; the text names the option in one line."""


def option_name(field: str) -> str:
    """Return the option of a field: `slow_drip` is set by `--slow-drip`."""
    return "--" + FAULT_OPTIONS.get(field, field).replace("_", "-")


SWITCHES: Final = frozenset(map(option_name, FAULT_SWITCHES))
"""The options that switch a fault on."""


class SandboxCommand(TyperCommand):
    """A command whose fault options need no probability."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse `--hang` as `--hang 1`."""
        return super().parse_args(ctx, list(_with_probabilities(args)))


def takes_sandbox_options(command: Callable[..., None]) -> Callable[..., None]:
    """Replace the `**chosen` of a command by an option for each field."""
    signature = inspect.signature(command)
    fixed = [
        each for each in signature.parameters.values() if each.kind != each.VAR_KEYWORD
    ]
    parameters = [*fixed, *_parameters(SandboxOptions), *_parameters(Faults)]
    command.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return command


def sandbox_options(chosen: Mapping[str, Any]) -> SandboxOptions:
    """Convert the options of the command; raises `BadOption` for an invalid value."""
    faults = {name: chosen[name] for name in Faults.__struct_fields__}
    try:
        return msgspec.convert({**chosen, "faults": faults}, SandboxOptions)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$.")
        name = option_name(path.rstrip("`").removeprefix("faults."))
        raise BadOption(f"{name}: {reason[:1].lower()}{reason[1:]}") from error


@asynccontextmanager
async def serve_sandbox(
    options: SandboxOptions, host: str, port: int
) -> AsyncIterator[str]:
    """Serve a sandbox while the context lasts; yield its URL."""
    async with running_sandbox(options, host, port) as running:
        yield running.url


def _with_probabilities(arguments: list[str]) -> Iterator[str]:
    # The sentinel shows that the last argument has no value after it.
    for argument, following in pairwise([*arguments, "--"]):
        yield argument
        if argument in SWITCHES and following.startswith("--"):
            yield ALWAYS


def _parameters(struct: type[Struct]) -> Iterator[inspect.Parameter]:
    """Yield the fields as keyword parameters for typer."""
    help_texts, types = _help_texts(struct), get_type_hints(struct)
    for field in msgspec.structs.fields(struct):
        if types[field.name] is Faults:
            continue
        is_switch = option_name(field.name) in SWITCHES
        option = typer.Option(
            option_name(field.name),
            help=help_texts.get(field.name),
            metavar="[0..1]" if is_switch else None,
            show_default=not is_switch,
            rich_help_panel="Faults" if struct is Faults else None,
        )
        yield inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=Annotated[types[field.name], option],
        )


def _help_texts(struct: type[Struct]) -> dict[str, str]:
    """Return the string below each field, from the source: Python discards it."""
    (definition,) = ast.parse(inspect.getsource(struct)).body
    texts = {}
    for field, following in pairwise(ast.iter_child_nodes(definition)):
        match field, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                texts[name] = text
    return texts
