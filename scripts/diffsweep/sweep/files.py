"""Files that are either whole or absent: everything is written beside its final name and renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; what was written there becomes `path` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary folder beside `path`; it replaces `path` when the block ends well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def copy_whole(source: Path, path: Path) -> None:
    """Copy a file or a folder to `path`, which it replaces when all of it is there."""
    if source.is_dir():
        with atomic_folder(path) as temporary:
            shutil.copytree(source, temporary, dirs_exist_ok=True)
    else:
        with atomic(path) as temporary:
            shutil.copyfile(source, temporary)


def partial_paths(folder: Path | str) -> list[Path]:
    """What killed jobs have left below `folder`: everything that has not got its final name."""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        partial = [name for name in (*folders, *files) if name.endswith(".partial")]
        found += [Path(place, name) for name in partial]
        folders[:] = [name for name in folders if name not in partial]
    return sorted(found)


def remove_partials(folder: Path | str) -> list[Path]:
    """Remove what killed jobs have left below `folder`, and say what it was. Only while no job writes there."""
    found = partial_paths(folder)
    for path in found:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    return found


def write_json(path: Path | str, value: Any) -> None:
    """Write `value` as indented JSON. NaN and infinity are refused: what was not measured is null."""
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path | str) -> Any:
    """The content of a JSON file. Raises ValueError that names the file when it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}: not valid JSON ({error})") from error


def digest_file(path: Path | str) -> str:
    with open(path, "rb") as handle:
        return "sha256:" + hashlib.file_digest(handle, "sha256").hexdigest()


def list_files(folder: Path | str) -> list[Path]:
    """All files below `folder`, sorted by their path."""
    return sorted(p for p in Path(folder).rglob("*") if p.is_file())


def digest_folder(folder: Path | str) -> str:
    """A digest over the relative paths and the contents of all files below `folder`."""
    folder = Path(folder)
    lines = (f"{p.relative_to(folder).as_posix()} {digest_file(p)}" for p in list_files(folder))
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()
