"""What decides a rerun, as digests: the code a program runs, the files a model consists of."""

import ast
import hashlib
import json
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from diffsweep.sweep.environments import PROJECT
from diffsweep.sweep.files import atomic, digest_file, list_files

SCRIPTS = PROJECT / "scripts"
FACTS = PROJECT / ".snakemake" / "diffsweep" / "sources.json"


def code_digest(*programs: str) -> str:
    """16 hex digits over the code of `programs` and of every module of this project that they import.

    `programs` are paths relative to scripts/. The syntax tree without docstrings is digested, so that comments,
    docstrings and formatting do not count. Modules that are imported by name at run time (engines) are not seen by
    the walk: give them as further programs.
    """
    digest = hashlib.sha256()
    for name, tree in code_digests(*programs).items():
        digest.update(f"{name} {tree}\n".encode())
    return digest.hexdigest()[:16]


def code_digests(*programs: str) -> dict[str, str]:
    """What `code_digest` covers: the digest of each file, by its path relative to scripts/."""
    files = sorted(source_closure(*(SCRIPTS / p for p in programs)))
    return {path.relative_to(SCRIPTS).as_posix(): _facts(path).tree for path in files}


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


@dataclass(frozen=True)
class Facts:
    """What a source file is and needs: the digest of its syntax tree without docstrings, the modules it imports."""

    tree: str
    imports: tuple[str, ...]


@cache
def _facts(path: Path) -> Facts:
    """The facts of a file. They are remembered by its content: to parse all takes a second, to read them none."""
    text = path.read_text(encoding="utf-8")
    key = hashlib.sha256(f"{sys.version_info[:2]} {text}".encode()).hexdigest()
    known = _remembered()
    if key not in known:
        tree = ast.parse(text, filename=str(path))
        known[key] = {"tree": _tree_digest(tree), "imports": sorted(_imported_names(tree))}
    return Facts(known[key]["tree"], tuple(known[key]["imports"]))


@cache
def _remembered() -> dict:
    return _read_cache(FACTS)


def remember_facts() -> None:
    """Keep what was found out about source files for the next call of Snakemake."""
    if _remembered() != _read_cache(FACTS):
        with atomic(FACTS) as temporary:
            temporary.write_text(json.dumps(_remembered()), encoding="utf-8")


def _imports(path: Path) -> frozenset[Path]:
    """The project's files that the file at `path` imports, wherever in it the import stands."""
    return frozenset(file for name in _facts(path).imports for file in _files_of(name))


def _imported_names(tree: ast.Module) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names.add(node.module)
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
    return names


def _files_of(name: str) -> list[Path]:
    """The files that `import name` runs, when `name` is a module of this project: packages on the way included."""
    parts = name.split(".")
    if not (SCRIPTS / parts[0]).is_dir():
        return []
    packages = [SCRIPTS.joinpath(*parts[:i], "__init__.py") for i in range(1, len(parts) + 1)]
    module = SCRIPTS.joinpath(*parts).with_suffix(".py")
    return [path for path in (*packages, module) if path.is_file()]


def _tree_digest(tree: ast.Module) -> str:
    return hashlib.sha256(ast.dump(_without_docstrings(tree)).encode()).hexdigest()


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
    """A digest over the names and contents of the files below `folder`, a model's; its card, README.md, does not count.

    Contents are hashed once: `cache_file` remembers them by path, size and modification time, since a model may have
    many gigabytes and this runs each time the workflow is parsed.
    """
    remembered = _read_cache(cache_file)
    fresh = dict(remembered)
    lines = []
    for path in (path for path in list_files(folder) if path.name != "README.md"):
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
