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
    """Layers in a folder, of which those that were used are kept in the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()

    def find(self, key: str) -> Path | None:
        """Return the layer's folder, and mark it as used."""
        if not (path := self._folder / key).is_dir():
            return None
        self._used.add(key)
        return path

    def find_last(self, keys: Iterable[str]) -> tuple[int, Path] | None:
        """Return the position and the folder of the last of these keys that is kept."""
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
        self._used.add(key)
        return part.rename(self._folder / key)

    def remove_unused(self) -> None:
        """Remove the layers that were neither found nor saved."""
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name not in self._used:
                    shutil.rmtree(path)
