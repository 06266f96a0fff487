"""Run a check, unless it has passed before with the same inputs.

    unless_passed.py NAME INPUT... -- COMMAND...

Inputs are files, folders, and texts such as `node=24.1.0`. The key of the last success
lies in .cache/passed/NAME. It is a digest of the inputs, the command and the version
of Python; an input that changes while the command runs leaves no key.
"""

import argparse
import hashlib
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PASSED: Final = ROOT / ".cache" / "passed"
MADE: Final = frozenset({"__pycache__", "node_modules", "static"})
"""Folders that are made from the inputs, and are none themselves."""
SEPARATOR: Final = "--"


def digest(inputs: Sequence[str], command: Sequence[str]) -> str:
    """Compute the key of a check; raises `FileNotFoundError` for a missing input."""
    key = hashlib.sha256()
    for part in (platform.python_version(), *command, *_contents(inputs)):
        data = part if isinstance(part, bytes) else part.encode()
        # With its length, since otherwise "ab" + "c" would be "a" + "bc".
        key.update(b"%d:" % len(data) + data)
    return key.hexdigest()


def _contents(inputs: Sequence[str]) -> Iterator[str | bytes]:
    for each in inputs:
        if "=" in each:
            yield each
            continue
        for file in _files(ROOT / each):
            yield file.relative_to(ROOT).as_posix()
            yield file.read_bytes()


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
        return
    for entry in sorted(path.iterdir()):
        if entry.name not in MADE:
            yield from _files(entry)


def run_unless_passed(name: str, inputs: Sequence[str], command: Sequence[str]) -> int:
    """Run the command if it has to be run, and return its status."""
    record = PASSED / name
    key = digest(inputs, command)
    if record.exists() and record.read_text() == key:
        sys.stdout.write(f"{name}: passed before, and nothing has changed since\n")
        return 0
    status = subprocess.run(command, cwd=ROOT, check=False).returncode
    if status == 0 and digest(inputs, command) == key:
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(key)
    return status


def main() -> None:
    """Read the arguments, run the check, end with its status."""
    given = sys.argv[1:]
    end = given.index(SEPARATOR) if SEPARATOR in given else len(given)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("name")
    parser.add_argument("inputs", nargs="+")
    chosen = parser.parse_args(given[:end])
    if not (command := given[end + 1 :]):
        parser.error(f"no command after {SEPARATOR}")
    sys.exit(run_unless_passed(chosen.name, chosen.inputs, command))


if __name__ == "__main__":
    main()
