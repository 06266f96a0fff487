"""Copies of a SQLite file that are refused, and what they leave behind."""

from pathlib import Path

import pytest

from service.settings import StorageSettings
from service.storage.backup import BackupFailed, back_up
from service.storage.errors import StorageUnusable
from tests.conftest import storage_at


@pytest.fixture
def source(empty_file: Path) -> StorageSettings:
    """A database of SQLite."""
    return storage_at(f"sqlite+aiosqlite:///{empty_file}")


def test_an_existing_file_is_never_replaced(
    source: StorageSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither one that was there before nor one that appears during the copy."""
    copy = tmp_path / "copy.db"
    copy.write_text("precious")
    with pytest.raises(BackupFailed, match=r"copy\.db: exists already"):
        back_up(source, copy)
    monkeypatch.setattr("os.path.lexists", lambda _: False)
    with pytest.raises(BackupFailed, match=r"copy\.db: exists already"):
        back_up(source, copy)

    assert copy.read_text() == "precious"
    assert list(tmp_path.iterdir()) == [copy]


def test_a_copy_that_fails_leaves_no_file(tmp_path: Path) -> None:
    """A damaged database, or a missing folder, is named in the error."""
    damaged = tmp_path / "damaged.db"
    damaged.write_bytes(b"not a database" * 100)
    with pytest.raises(BackupFailed, match="file is not a database"):
        back_up(storage_at(f"sqlite+aiosqlite:///{damaged}"), tmp_path / "copy.db")
    with pytest.raises(BackupFailed, match="No such file or directory"):
        back_up(storage_at(f"sqlite+aiosqlite:///{damaged}"), tmp_path / "no" / "copy")

    assert list(tmp_path.iterdir()) == [damaged]


@pytest.mark.parametrize(
    "url, reason",
    [
        ("sqlite+aiosqlite:///missing.db", "there is no such file"),
        ("postgresql+asyncpg://a:secret@b/c", r"//a:\*\*\*@b/c: .* use pg_dump"),
    ],
)
def test_only_a_file_of_sqlite_is_copied(url: str, reason: str, tmp_path: Path) -> None:
    """PostgreSQL has its own tools, and no database is made in order to copy it."""
    with pytest.raises(StorageUnusable, match=reason):
        back_up(storage_at(url), tmp_path / "copy.db")

    assert list(tmp_path.iterdir()) == []
