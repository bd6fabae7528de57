"""What decides a rerun: code by its syntax tree, folders by their content."""

import shutil

import pytest

from diffsweep.sweep import digests
from diffsweep.sweep.environments import lock_requirements

MODULE = '"""Docstring."""\nfrom diffsweep.part import value\n\n\ndef f():\n    """Another."""\n    return value\n'


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """A tiny project: program.py -> diffsweep/part.py -> diffsweep/deep.py, and one module nobody imports."""
    (tmp_path / "diffsweep").mkdir()
    (tmp_path / "diffsweep" / "__init__.py").write_text("")
    (tmp_path / "diffsweep" / "part.py").write_text("def g():\n    import diffsweep.deep\n\n\nvalue = 1\n")
    (tmp_path / "diffsweep" / "deep.py").write_text("x = 1\n")
    (tmp_path / "diffsweep" / "other.py").write_text("y = 1\n")
    (tmp_path / "program.py").write_text(MODULE)
    monkeypatch.setattr(digests, "SCRIPTS", tmp_path)
    monkeypatch.setattr(digests, "FACTS", tmp_path / "sources.json")
    yield tmp_path
    forget()


def forget():
    for function in (digests._facts, digests._remembered):
        function.cache_clear()


def digest_after(scripts, name: str, text: str) -> tuple[str, str]:
    forget()
    before = digests.code_digest("program.py")
    (scripts / name).write_text(text)
    forget()
    return before, digests.code_digest("program.py")


@pytest.mark.parametrize("name", ["diffsweep/part.py", "diffsweep/deep.py", "diffsweep/__init__.py"])
def test_a_change_in_any_imported_module_counts(scripts, name):
    before, after = digest_after(scripts, name, "value = 2\nimport diffsweep.deep\n")
    assert before != after


def test_a_module_that_is_not_imported_does_not_count(scripts):
    before, after = digest_after(scripts, "diffsweep/other.py", "y = 2\n")
    assert before == after


def test_comments_docstrings_and_formatting_do_not_count(scripts):
    text = '"""Else."""\n# why\nfrom diffsweep.part import (\n    value,\n)\n\ndef f():\n    return value  # so\n'
    before, after = digest_after(scripts, "program.py", text)
    assert before == after


def test_what_is_remembered_of_a_file_is_by_its_content(scripts, monkeypatch):
    forget()
    first = digests.code_digest("program.py")
    digests.remember_facts()
    forget()
    monkeypatch.setattr(digests.ast, "parse", None)  # nothing is parsed a second time
    assert digests.code_digest("program.py") == first


def test_every_program_of_the_workflow_can_be_walked():
    for program in digests.SCRIPTS.glob("*.py"):
        files = digests.source_closure(program)
        assert program in files


def test_a_folder_is_its_content_not_its_times(tmp_path):
    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "weights").write_bytes(b"1")
    first = digests.folder_digest(folder, tmp_path / "cache.json")
    shutil.copytree(folder, tmp_path / "b")
    assert digests.folder_digest(tmp_path / "b", tmp_path / "cache.json") == first
    (folder / "README.md").write_text("a better card")
    assert digests.folder_digest(folder, tmp_path / "cache.json") == first
    (folder / "weights").write_bytes(b"2")
    assert digests.folder_digest(folder, tmp_path / "cache.json") != first


def test_comments_in_a_lock_do_not_count():
    assert lock_requirements("# why\na==1 \\\n    --hash=x\n\n") == lock_requirements("a==1 \\\n  --hash=x  # y\n")
