"""Descriptions of the work of a process, for the log line of a forced shutdown."""

import asyncio
import gc
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from types import AsyncGeneratorType, CoroutineType, FrameType, GeneratorType
from typing import Any, Final

MAX_LISTED: Final = 10
"""Maximum number of different tasks, and of threads, in the line."""
MAX_DEPTH: Final = 100
PACKAGE: Final = __name__.partition(".")[0]
ATTRIBUTES: Final = {
    CoroutineType: ("cr_frame", "cr_await"),
    AsyncGeneratorType: ("ag_frame", "ag_await"),
    GeneratorType: ("gi_frame", "gi_yieldfrom"),
}


def describe_open_work(loop: asyncio.AbstractEventLoop | None) -> list[str]:
    """Describe the tasks of a loop, and the threads and children of this process."""
    tasks = _summarize(_describe_tasks(loop)) if loop is not None else []
    threads = _summarize(_describe_threads())
    return [*tasks, *threads, *(f"process {pid}" for pid in child_ids())]


def child_ids() -> list[int]:
    """Return the children of this process; none on systems without `/proc`."""
    children: list[int] = []
    for file in Path(f"/proc/{os.getpid()}/task").glob("*/children"):
        with suppress(OSError):
            children += map(int, file.read_text().split())
    return children


def kill_children() -> None:
    """Kill the children of this process, so that none outlives it."""
    for pid in child_ids():
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _summarize(descriptions: Iterable[str]) -> list[str]:
    """Count equal descriptions; the rarest, which tell most, come first."""
    counted = sorted(Counter(descriptions).items(), key=lambda each: (each[1], each[0]))
    return [
        text if count == 1 else f"{count} times {text}"
        for text, count in counted[:MAX_LISTED]
    ]


def _describe_tasks(loop: asyncio.AbstractEventLoop) -> Iterator[str]:
    with suppress(RuntimeError):  # the loop changes its tasks meanwhile
        for task in asyncio.all_tasks(loop):
            yield f"task in {_place(_awaited_frames(task.get_coro()))}"


def _describe_threads() -> Iterator[str]:
    """Describe the threads for which an exit of the interpreter waits."""
    frames = sys._current_frames()
    for thread in threading.enumerate():
        frame = frames.get(thread.ident or 0)
        if not thread.daemon and frame is not None:
            outward = list(_outer_frames(frame))
            yield f"{thread.name} in {_place(reversed(outward))}"


def _awaited_frames(awaited: Any) -> Iterator[FrameType]:
    """Yield the frames of a coroutine, from the outermost to the innermost."""
    for _ in range(MAX_DEPTH):
        names = ATTRIBUTES.get(type(awaited))
        if names is None:
            # The iterator of `anext` names its generator nowhere else.
            referents = gc.get_referents(awaited) if awaited is not None else []
            awaited = next((each for each in referents if type(each) in ATTRIBUTES), 0)
            if not awaited:
                return
            continue
        frame = getattr(awaited, names[0])
        if frame is not None:
            yield frame
        awaited = getattr(awaited, names[1])


def _outer_frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


def _place(frames: Iterator[FrameType]) -> str:
    """Return the innermost place in this package, and in the library that it calls."""
    own = called = ""
    for frame in frames:
        module = str(frame.f_globals.get("__name__"))
        package = module.partition(".")[0]
        place = f"{module}:{frame.f_lineno} {frame.f_code.co_qualname}"
        if package == PACKAGE:
            own, called = place, ""
        elif package not in sys.stdlib_module_names:
            called = place
    return " > ".join(filter(None, [own, called])) or "the standard library"
