"""Nothing of its maker in a result: what is found, what is not taken for it, and what is put in its place."""

from pathlib import Path

import pytest

from diffsweep.sweep import privacy


@pytest.fixture(autouse=True)
def zaphod(monkeypatch):
    """A maker whose home, name and token are known."""
    monkeypatch.setenv("HOME", "/data/people/zaphod")
    monkeypatch.setenv("USER", "zaphod")
    monkeypatch.setenv("SOME_TOKEN", "correct-horse-battery")
    privacy._patterns.cache_clear()
    yield
    privacy._patterns.cache_clear()


@pytest.mark.parametrize(
    "content",
    [
        '{"path": "/home/alice/models/x"}',
        "in /Users/alice/x",
        "File /root/.cache/x",
        "C:\\Users\\alice\\x",
        "/data/people/zaphod/models",
        "made by zaphod",
        "correct-horse-battery",
        "hf_" + "a1" * 17,
        "ghp_" + "a1" * 18,
        "AKIA" + "A1" * 8,
        "https://me:secret@example.org/simple",
        "-----BEGIN OPENSSH PRIVATE KEY-----",
        f'"{privacy.PROJECT}/results"',
    ],
)
def test_what_must_not_be_told_is_found(content):
    assert privacy.find_private(content.encode())


@pytest.mark.parametrize(
    "content",
    ["the root mean square", "https://example.org/home/page", "AAAA/root/BBBB+/home/cc==", "resources/reference-model"]
    + [
        "a task-oriented prompt",
        "results/home/local/fp32",
        "sha256:" + "0a" * 32,
        "huggingface.co/a/b@main",
        "/rooted",
    ],
)
def test_what_is_harmless_is_left_alone(content):
    assert privacy.find_private(content.encode()) is None


def test_nothing_that_ships_tells():
    for folder in ("config", "envs", "workflow", "results/published"):
        for path in Path(privacy.PROJECT, folder).rglob("*"):
            if path.is_file():
                assert privacy.find_private(path.read_bytes()) is None, path


def test_a_reason_keeps_its_meaning_and_loses_its_maker():
    told = f"FileNotFoundError: {privacy.PROJECT}/results/x, {Path.home()}/models, hf_{'a1' * 17}"
    assert privacy.impersonal(told) == "FileNotFoundError: results/x, ~/models, ***"
