"""What decides a rerun, as digests: the code a program runs, the files a model consists of."""

import ast
import hashlib
import json
from functools import cache
from pathlib import Path

from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.files import atomic, digest_file, list_files

SCRIPTS = PROJECT / "scripts"


def code_digest(*programs: str) -> str:
    """16 hex digits over the code of `programs` and of every module of this project that they import.

    `programs` are paths relative to scripts/. The syntax tree without docstrings is digested, so that comments,
    docstrings and formatting do not count. Modules that are imported by name at run time (engines) are not seen by
    the walk: give them as further programs.
    """
    digest = hashlib.sha256()
    for path in sorted(source_closure(*(SCRIPTS / p for p in programs))):
        digest.update(f"{path.relative_to(SCRIPTS).as_posix()} {_tree_digest(path)}\n".encode())
    return digest.hexdigest()[:16]


def source_closure(*programs: Path) -> set[Path]:
    """`programs` and every file of this project that they import, directly or not."""
    found: set[Path] = set()
    waiting = list(programs)
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting.extend(_imports(path))
    return found


@cache
def _parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def _imports(path: Path) -> frozenset[Path]:
    """The project's files that the file at `path` imports, wherever in it the import stands."""
    names: set[str] = set()
    for node in ast.walk(_parse(path)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return frozenset(file for name in names for file in _files_of(name))


def _files_of(name: str) -> list[Path]:
    """The files that `import name` runs, when `name` is a module of this project: packages on the way included."""
    parts = name.split(".")
    if not (SCRIPTS / parts[0]).is_dir():
        return []
    packages = [SCRIPTS.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    module = SCRIPTS.joinpath(*parts).with_suffix(".py")
    return [path for path in (*packages, module) if path.is_file()]


@cache
def _tree_digest(path: Path) -> str:
    return hashlib.sha256(ast.dump(_without_docstrings(_parse(path))).encode()).hexdigest()


def _without_docstrings(tree: ast.Module) -> ast.Module:
    bare = ast.parse(ast.unparse(tree))  # a copy, free of positions
    for node in ast.walk(bare):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and _has_docstring(
            node
        ):
            node.body = node.body[1:]
    return bare


def _has_docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return ast.get_docstring(node, clean=False) is not None


def folder_digest(folder: Path, cache_file: Path) -> str:
    """A digest over the names and contents of the files below `folder`.

    Contents are hashed once: `cache_file` remembers them by path, size and modification time, since a model may have
    many gigabytes and this runs each time the workflow is parsed.
    """
    remembered = _read_cache(cache_file)
    fresh = dict(remembered)
    lines = []
    for path in list_files(folder):
        stat = path.stat()
        key = f"{path} {stat.st_size} {stat.st_mtime_ns}"
        fresh[key] = remembered.get(key) or digest_file(path)
        lines.append(f"{path.relative_to(folder).as_posix()} {fresh[key]}")
    if fresh != remembered:
        with atomic(cache_file) as temporary:
            temporary.write_text(json.dumps(fresh), encoding="utf-8")
    return "sha256:" + hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _read_cache(cache_file: Path) -> dict[str, str]:
    try:
        return json.loads(cache_file.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}


def data_digest(value: object) -> str:
    """16 hex digits over a JSON value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
