"""Carry out the instructions of a Dockerfile in a folder of this machine."""

import os
import platform
import re
import shlex
import shutil
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from scripts.dockerfile import (
    FROM_STAGE,
    ROOT,
    BrokenImageError,
    Instruction,
    Stage,
    context_files,
    copy_context,
    exec_form,
)
from scripts.layers import Layers, chain, link_tree

STEP_TIMEOUT_S: Final = 300
OF_THIS_VENV: Final = ("VIRTUAL_ENV", "PYTHON", "COPILOT_USAGE_")


class Image:
    """The result of the instructions so far; `root` has the files of one stage.

    Stages that need a Node.js which is not installed are skipped, and give nothing.
    All stages work in the same folder, since a virtual environment has its own path
    in its files. It is the same in every replay, so layers can be used again.
    """

    def __init__(
        self, work: Path, node: Path | None, build_arguments: Mapping[str, str]
    ) -> None:
        self.root = work / "root"
        self.workdir = self.root
        self.env: dict[str, str] = {}
        self.argv: dict[str, list[str]] = {}
        self.labels: dict[str, str] = {}
        self._node = node
        self._build_arguments = build_arguments
        self._arguments: dict[str, str] = {}
        self._layers = Layers(work / "layers")
        self._base_env = host_environment(work)
        self._stages: dict[str, Path | None] = {}
        self._keys: dict[str, str] = {}

    def build(self, stages: Sequence[Stage]) -> None:
        """Carry all stages out; the last one, which has no name, stays in `root`."""
        for stage in stages:
            if stage.base.startswith("node:") and self._node is None:
                self._stages[stage.name] = None
                self._keys[stage.name] = ""
            else:
                self._build_stage(stage)
        self._layers.remove_others()

    def run(self, argv: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command in the image to its end, its output captured."""
        return subprocess.run(
            argv,
            cwd=self.workdir,
            env=self.env,
            timeout=STEP_TIMEOUT_S,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def _build_stage(self, stage: Stage) -> None:
        self._begin(stage)
        if not stage.name:
            for each in stage.instructions:
                self._carry_out(each)
            return
        keys = list(self._layer_keys(stage))
        self._layers.keep(keys)
        if (layer := self._layers.find(keys[-1])) is None:
            layer = self._make_layers(stage, keys)
        self._stages[stage.name] = layer
        self._keys[stage.name] = keys[-1]

    def _make_layers(self, stage: Stage, keys: Sequence[str]) -> Path:
        """Run the instructions after the last stored layer; store each RUN's."""
        restored = -1
        if (found := self._layers.find_last(keys)) is not None:
            restored, layer = found
            link_tree(layer, self.root)
        for index, (each, key) in enumerate(zip(stage.instructions, keys, strict=True)):
            if index > restored or each.name not in {"RUN", "COPY"}:
                self._carry_out(each)
            if index > restored and each.name == "RUN":
                layer = self._layers.save(key, self.root)
        if stage.instructions[-1].name != "RUN":
            raise BrokenImageError(f"stage {stage.name} must end with a RUN")
        return layer

    def _begin(self, stage: Stage) -> None:
        shutil.rmtree(self.root, ignore_errors=True)
        self.root.mkdir(parents=True)
        self.workdir = self.root
        self.env = dict(self._base_env)
        self._arguments = {}
        if stage.base.startswith("node:") and self._node is not None:
            self.env["PATH"] = f"{self._node.parent}:{self.env['PATH']}"

    def _layer_keys(self, stage: Stage) -> Iterator[str]:
        key = chain(stage.base, sys.base_prefix, platform.python_version())
        key = chain(key, str(self._node and self._node.resolve()))
        for each in stage.instructions:
            key = chain(key, *each, *self._copied(each))
            yield key

    def _copied(self, instruction: Instruction) -> Iterator[str | bytes]:
        """Yield the key of the stage that is copied from, or names and contents."""
        if instruction.name != "COPY":
            return
        *sources, _ = shlex.split(instruction.arguments)
        if sources[0].startswith(FROM_STAGE):
            yield self._keys[sources[0].removeprefix(FROM_STAGE)]
            return
        for source in sources:
            for file in context_files(source):
                yield file.relative_to(ROOT).as_posix()
                yield file.read_bytes()

    def _carry_out(self, instruction: Instruction) -> None:
        name, arguments = instruction
        match name:
            case "WORKDIR":
                self.workdir = self._inside(arguments)
                self.workdir.mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(shlex.split(arguments))
            case "RUN":
                self._run(self._localize(arguments, quoted=True))
            case "ARG":
                key, _, default = arguments.partition("=")
                self._arguments[key] = self._build_arguments.get(key, default)
            case "ENV" | "LABEL":
                self._set(name, arguments)
            case "ENTRYPOINT" | "CMD" | "HEALTHCHECK":
                self.argv[name] = exec_form(arguments)
            case "USER" | "EXPOSE" | "VOLUME":
                pass
            case _:
                raise BrokenImageError(f"{name} is not known to this script")

    def _set(self, name: str, arguments: str) -> None:
        values = self.env if name == "ENV" else self.labels
        for pair in shlex.split(arguments):
            key, _, value = pair.partition("=")
            known = {**self.env, **self._arguments}
            values[key] = string.Template(self._localize(value)).substitute(known)

    def _run(self, command: str) -> None:
        done = self.run(["sh", "-c", command])
        if done.returncode:
            raise BrokenImageError(f"{command}\n{done.stdout}")

    def _copy(self, arguments: list[str]) -> None:
        *sources, destination = arguments
        target = self._inside(destination)
        if sources[0].startswith(FROM_STAGE):
            self._copy_from(sources.pop(0).removeprefix(FROM_STAGE), sources, target)
            return
        if destination.endswith("/"):
            target.mkdir(parents=True, exist_ok=True)
        for source in sources:
            copy_context(source, target)

    def _copy_from(self, stage: str, sources: Sequence[str], target: Path) -> None:
        if (files := self._stages[stage]) is not None:
            for source in sources:
                link_tree(files / source.lstrip("/"), target)

    def _inside(self, path: str) -> Path:
        return self.root / path[1:] if path.startswith("/") else self.workdir / path

    def _localize(self, text: str, *, quoted: bool = False) -> str:
        root = shlex.quote(str(self.root)) if quoted else str(self.root)
        return re.sub(r"(?<![\w.])/app\b", lambda _: f"{root}/app", text)


def host_environment(work: Path) -> dict[str, str]:
    """Give the base image's environment: a bare `python` first on the path."""
    bare_python = f"bin/python{sys.version_info.major}.{sys.version_info.minor}"
    programs = work / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    (programs / "python").unlink(missing_ok=True)
    (programs / "python").symlink_to(Path(sys.base_prefix, bare_python))
    env = {k: v for k, v in os.environ.items() if not k.startswith(OF_THIS_VENV)}
    return env | {"PATH": f"{programs}:/usr/bin:/bin"}
