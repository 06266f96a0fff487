"""Keep what the instructions of a Dockerfile have made, as Docker keeps its layers.

The key of a layer is a digest of the key before it, the instruction and what this
copies. A layer is a folder of hard links, so saving and restoring one copies no data.
Commands that replace files are safe; none of ours writes into one that it has not made.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path


def chain(key: str, *parts: str | bytes) -> str:
    """Compute the key that follows a key; each part is hashed with its length."""
    digest = hashlib.sha256(key.encode())
    for part in parts:
        data = part if isinstance(part, bytes) else part.encode()
        digest.update(b"%d:" % len(data) + data)
    return digest.hexdigest()


def link_tree(source: Path, target: Path) -> None:
    """Make a folder that has the same files, as hard links."""
    shutil.copytree(
        source, target, symlinks=True, copy_function=os.link, dirs_exist_ok=True
    )


class Layers:
    """Layers in a folder, of which only those of the current Dockerfile are stored."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: set[str] = set()

    def keep(self, keys: Iterable[str]) -> None:
        """Keep the layers that have these keys, as far as there are such."""
        self._kept.update(keys)

    def find(self, key: str) -> Path | None:
        """Return the layer's folder, if there is one."""
        path = self._folder / key
        return path if path.is_dir() else None

    def find_last(self, keys: Iterable[str]) -> tuple[int, Path] | None:
        """Return the position and the folder of the last stored one of these keys."""
        numbered = list(enumerate(keys))
        for index, key in reversed(numbered):
            if (path := self.find(key)) is not None:
                return index, path
        return None

    def save(self, key: str, tree: Path) -> Path:
        """Keep a tree under a key and return its folder, whole or not at all."""
        part = self._folder / f"{key}.part"
        shutil.rmtree(part, ignore_errors=True)
        link_tree(tree, part)
        return part.rename(self._folder / key)

    def remove_others(self) -> None:
        """Remove all other layers."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name not in self._kept:
                    shutil.rmtree(path)
