"""Locks and environments: pinned, the same where they are compared, built once, built again after a kill."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from conftest import PROJECT
from diffsweep.sweep import environments
from diffsweep.sweep.environments import LOCKS, PIP_TO_UV, find_uv, lock_requirements, uv_environment

MEASURING = ("torch", "onnxruntime", "openvino")
COMPARED = ("torch", "diffusers", "transformers", "numpy", "tokenizers", "safetensors", "fastapi", "uvicorn", "pillow")


def versions(name: str) -> dict[str, str]:
    lines = lock_requirements((LOCKS / f"{name}.lock").read_text())
    return dict(
        re.match(r"([A-Za-z0-9._-]+)==([^ ;\\]+)", line).groups() for line in lines if not line.startswith("--hash")
    )


@pytest.mark.parametrize("package", COMPARED)
def test_measuring_environments_differ_in_the_engine_only(package):
    assert len({versions(name)[package] for name in MEASURING}) == 1


@pytest.mark.parametrize("lock", sorted(LOCKS.glob("*.lock")), ids=lambda p: p.stem)
def test_every_lock_pins_every_package_with_a_hash_and_names_no_registry(lock):
    text = lock.read_text()
    assert "://" not in text
    for requirement in re.split(r"\n(?=\S)", text.strip()):
        assert re.match(r"[a-z0-9._-]+==\S+", requirement, re.IGNORECASE), requirement
        assert "--hash=sha256:" in requirement, requirement


@pytest.mark.parametrize("source", sorted(LOCKS.glob("*.in")), ids=lambda p: p.stem)
def test_every_environment_has_its_lock(source):
    assert source.stem == "serving" or source.with_suffix(".lock").is_file()


@pytest.mark.parametrize(
    ("pip", "uv"),
    [
        ({"PIP_INDEX_URL": "https://a/simple"}, {"UV_DEFAULT_INDEX": "https://a/simple"}),
        ({"PIP_EXTRA_INDEX_URL": "https://a https://b"}, {"UV_INDEX": "https://a https://b"}),
        ({"PIP_FIND_LINKS": "/a /b"}, {"UV_FIND_LINKS": "/a,/b"}),
        ({"PIP_INDEX_URL": ""}, {}),
    ],
)
def test_a_setting_of_pip_alone_reaches_uv_by_its_name(pip, uv):
    assert uv_environment(pip) == {**pip, **uv}


@pytest.mark.parametrize(("pip", "uv"), PIP_TO_UV.items())
def test_uvs_own_setting_wins(pip, uv):
    assert uv_environment({pip: "x", uv: "y"})[uv] == "y"


def test_torch_is_the_build_of_the_locks_unless_the_user_names_another():
    """A machine with a GPU would be offered a build that has other hashes, and refuse it."""
    assert environments._torch_backend({}) == ["--torch-backend", "cpu"]
    for named in ("UV_TORCH_BACKEND", "UV_FIND_LINKS", "UV_DEFAULT_INDEX"):
        assert environments._torch_backend({named: "x"}) == []


def test_a_new_environment_gets_its_bytecode_with_its_receipt(tmp_path):
    """New: by Python's word for where bytecode lies, nobody has imported torch there."""
    bytecode = tmp_path / "bytecode"
    environ = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "scripts/in_env", "scoring", "python", "scripts/receipt.py", "--environment", "scoring"]
    environ["PYTHONPYCACHEPREFIX"] = str(bytecode)
    subprocess.run([*command, "--out", tmp_path / "receipt.txt"], cwd=PROJECT, env=environ, check=True)
    written = {path.parent.name for path in bytecode.rglob("__init__.*.pyc")}
    assert written >= {"torch", "torchmetrics", "transformers"}
    assert "torch==" in (tmp_path / "receipt.txt").read_text()


@pytest.fixture
def tiny(tmp_path):
    """A project with one small environment: in_env, its library, and a lock of one pure package."""
    (tmp_path / "envs").mkdir()
    lines = (LOCKS / "workflow.lock").read_text()
    package = re.search(r"^iniconfig==.*?(?=^\S|\Z)", lines, re.MULTILINE | re.DOTALL).group(0)
    (tmp_path / "envs" / "tiny.lock").write_text(package)
    (tmp_path / "scripts").symlink_to(PROJECT / "scripts")
    sweep = tmp_path / "copy" / "diffsweep" / "sweep"
    sweep.mkdir(parents=True)
    for name in ("__init__.py", "sweep/__init__.py", "sweep/environments.py", "sweep/workflow.py"):
        (tmp_path / "copy" / "diffsweep" / name).write_text((PROJECT / "scripts" / "diffsweep" / name).read_text())
    (tmp_path / "copy" / "in_env").write_text((PROJECT / "scripts" / "in_env").read_text())
    (tmp_path / "scripts").unlink()
    (tmp_path / "copy").rename(tmp_path / "scripts")
    return tmp_path


def in_env(folder, *command: str) -> subprocess.Popen:
    whole = [sys.executable, str(folder / "scripts" / "in_env"), *command]
    return subprocess.Popen(whole, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


PROBE = ("tiny", "python", "-c", "import iniconfig, sys; print(sys.prefix)")


def test_two_jobs_that_want_one_environment_at_once_build_it_once(tiny):
    with ThreadPoolExecutor() as pool:
        results = list(
            pool.map(
                lambda process: (*process.communicate(timeout=120), process.returncode),
                [in_env(tiny, *PROBE) for _ in range(3)],
            )
        )
    assert [code for *_, code in results] == [0, 0, 0], results
    assert len({out for out, *_ in results}) == 1
    assert sum("building environment" in err for _, err, _ in results) == 1


def test_a_killed_build_is_built_again(tiny):
    process = in_env(tiny, *PROBE)
    deadline = time.monotonic() + 60
    while not list((tiny / ".envs").glob("tiny-*/bin")) and time.monotonic() < deadline:
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    again = in_env(tiny, *PROBE)
    out, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert "tiny-" in out


def test_an_unknown_environment_is_told_in_one_line(tiny):
    process = in_env(tiny, "tyni", "true")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.strip() == "in_env: environment 'tyni': there is no envs/tyni.lock; known environments: tiny"


def test_a_package_that_cannot_be_had_is_named(tiny):
    (tiny / "envs" / "tiny.lock").write_text("no-such-package-of-diffsweep==1.0\n")
    process = in_env(tiny, "tiny", "true")
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "no-such-package-of-diffsweep" in err and "Traceback" not in err


def test_a_package_whose_hash_is_another_is_not_installed(tiny):
    lock = tiny / "envs" / "tiny.lock"
    lock.write_text(re.sub(r"(sha256:)[0-9a-f]{64}", r"\g<1>" + "0" * 64, lock.read_text()))
    process = in_env(tiny, *PROBE)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "iniconfig" in err and "ash mismatch" in err and "Traceback" not in err
    assert not list((tiny / ".envs").glob("tiny-*/.complete"))


# --- scripts/update_lock --------------------------------------------------------------------------------------------


def write_wheel(folder: Path, name: str, version: str) -> None:
    """The smallest wheel that uv takes: metadata and no code."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def packages(tmp_path) -> Path:
    """A project whose environment `tiny` has two packages, each to be had from a folder in version 1."""
    for name in ("envs", "wheels", "bin"):
        (tmp_path / name).mkdir()
    (tmp_path / "envs" / "tiny.in").write_text("engine\nhelper\n")
    library = tmp_path / "scripts" / "diffsweep"
    for name in ("__init__", "sweep/__init__", "sweep/environments", "sweep/files", "sweep/workflow"):
        (library / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / "scripts" / "diffsweep" / f"{name}.py", library / f"{name}.py")
    shutil.copy(PROJECT / "scripts" / "update_lock", tmp_path / "scripts")
    (tmp_path / "bin" / "python").symlink_to(os.path.realpath(sys.executable))
    (tmp_path / "bin" / "uv").symlink_to(find_uv())  # beside this python, where it is looked for first
    for package in (("engine", "1.0+cpu"), ("helper", "1.0")):
        write_wheel(tmp_path / "wheels", *package)
    return tmp_path


def update_lock(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("UV_", "PIP_"))}
    environ = {**kept, "UV_NO_INDEX": "1", "UV_FIND_LINKS": str(folder / "wheels"), "UV_OFFLINE": "1"}
    command = [folder / "bin" / "python", folder / "scripts" / "update_lock", *arguments]
    return subprocess.run(command, cwd=folder, env=environ, text=True, capture_output=True, start_new_session=True)


def pinned(folder: Path) -> list[str]:
    text = (folder / "envs" / "tiny.lock").read_text()
    assert text.count("--hash=sha256:") == 2
    return re.findall(r"^\S+==\S+", text, re.MULTILINE)


def test_update_lock_raises_the_packages_that_are_named_and_no_other(packages):
    done = update_lock(packages, "tiny")
    assert done.returncode == 0, done.stderr
    assert pinned(packages) == ["engine==1.0", "helper==1.0"]  # +cpu is one package source's name for it
    write_wheel(packages / "wheels", "helper", "2.0")
    assert update_lock(packages, "tiny").returncode == 0
    assert pinned(packages) == ["engine==1.0", "helper==1.0"]
    assert update_lock(packages, "tiny", "helper").returncode == 0
    assert pinned(packages) == ["engine==1.0", "helper==2.0"]
    assert {path.name for path in (packages / "envs").iterdir()} == {"tiny.in", "tiny.lock"}


def test_an_update_that_fails_or_is_killed_leaves_the_lock_as_it_was(packages):
    assert update_lock(packages, "tiny").returncode == 0
    before = (packages / "envs" / "tiny.lock").read_bytes()
    write_wheel(packages / "wheels", "engine", "2.0+cpu")
    uv = (packages / "bin" / "uv").readlink()
    (packages / "bin" / "uv").unlink()
    (packages / "bin" / "uv").write_text(f'#!/bin/sh\n{uv} "$@"\nkill -9 $PPID\n')
    (packages / "bin" / "uv").chmod(0o755)
    assert update_lock(packages, "tiny", "engine").returncode == -signal.SIGKILL  # after uv has written
    assert (packages / "envs" / "tiny.lock").read_bytes() == before
    (packages / "bin" / "uv").unlink()
    (packages / "bin" / "uv").symlink_to(uv)
    (packages / "envs" / "tiny.in").write_text("engine>=3\nhelper\n")
    done = update_lock(packages, "tiny")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.startswith("update_lock: envs/tiny.in could not be compiled:") and "engine" in done.stderr
    assert (packages / "envs" / "tiny.lock").read_bytes() == before


def test_update_lock_of_an_unknown_environment_says_how_it_is_used(packages):
    done = update_lock(packages, "tyni")
    assert done.returncode == 1 and "usage: scripts/update_lock NAME" in done.stderr
