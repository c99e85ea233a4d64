"""The build: the same bytes every time, everything in it that a server needs and nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import build_zipapp
from rollbridge import __version__, native
from tests.support.interpreters import supported

CHECKOUT: Final = Path(build_zipapp.__file__).parent
LIBRARY_BYTES: Final = b"\x7fELF"
MACHINES: Final = {"x86_64": 62, "aarch64": 183}  # e_machine of the ELF header


@pytest.fixture
def checkout(tmp_path: Path, pyz: Path) -> Path:
    """A copy of what the build reads; ``pyz`` first, so that the wheels are at hand."""
    return copy_checkout(tmp_path / "checkout")


def copy_checkout(target: Path) -> Path:
    skipped = shutil.ignore_patterns("__pycache__", ".*", "tests", "dist", "docs", "*.egg-info")
    shutil.copytree(CHECKOUT, target, ignore=skipped)
    return target


def build(checkout: Path, python: str = sys.executable, **environ: str) -> Path:
    command = [python, str(checkout / "build_zipapp.py")]
    result = subprocess.run(
        command, cwd="/", env={**os.environ, **environ}, capture_output=True, text=True, check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return checkout / "dist" / "rollbridge.pyz"


def test_the_same_sources_give_the_same_bytes_wherever_and_whenever(checkout: Path, tmp_path: Path) -> None:
    first = build(checkout, PYTHONHASHSEED="1", TZ="UTC").read_bytes()
    other = copy_checkout(tmp_path / "another place" / "with spaces")
    for path in (other / "rollbridge").rglob("*.py"):
        os.utime(path, (2_000_000_000, 2_000_000_000))
        path.chmod(0o600)
    previous = os.umask(0o077)
    try:
        second = build(other, PYTHONHASHSEED="2", TZ="Asia/Tokyo", SOURCE_DATE_EPOCH="1700000000")
    finally:
        os.umask(previous)
    assert second.read_bytes() == first
    assert second.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("python", supported())
def test_every_python_with_the_same_zlib_gives_the_same_bytes(python: str, checkout: Path) -> None:
    code = "import zlib; print(zlib.ZLIB_RUNTIME_VERSION)"
    theirs = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    if theirs != zlib.ZLIB_RUNTIME_VERSION:
        pytest.skip(f"{python} has zlib {theirs}")
    ours = build(checkout).read_bytes()
    assert build(checkout, python).read_bytes() == ours


def test_the_file_is_small_executable_and_names_its_interpreter(pyz: Path) -> None:
    assert pyz.stat().st_size < 1.5 * 1024 * 1024
    assert os.access(pyz, os.X_OK)
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\n")


def test_the_file_has_every_platform_every_licence_and_no_leftovers(pyz: Path) -> None:
    with zipfile.ZipFile(pyz) as archive:
        names = archive.namelist()
        for platform in native.BUNDLED_PLATFORMS:
            library = archive.read(f"{native.BUNDLE}/{platform}/{native.LIBRARY}")
            assert library.startswith(LIBRARY_BYTES)
            assert int.from_bytes(library[18:20], "little") == MACHINES[platform.partition("-")[0]]
            assert (b"libc.so.6" in library) == platform.endswith("glibc")
        assert all(info.compress_type == zipfile.ZIP_DEFLATED for info in archive.infolist() if info.file_size > 10_000)
    assert {"LICENSE", "bundled/psutil/LICENSE", "tomli_w/LICENSE"} <= set(names)
    assert names == sorted(names)
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", "/")) or "_pswindows" in name]
    assert not [name for name in names if name.startswith(("tests/", "psutil/", "rollbridge/.", "build"))]


def test_hidden_files_and_caches_in_the_checkout_stay_outside(checkout: Path) -> None:
    before = build(checkout).read_bytes()
    (checkout / "rollbridge" / ".editor.swp").write_text("x")
    (checkout / "rollbridge" / "__pycache__").mkdir()
    (checkout / "rollbridge" / "__pycache__" / "x.cpython-311.pyc").write_text("x")
    assert build(checkout).read_bytes() == before


def test_a_cached_wheel_with_another_digest_is_passed_over(checkout: Path) -> None:
    pins = build_zipapp.read_pins((checkout / "requirements.lock").read_text())
    directory = checkout / "build" / "wheels" / "x86_64-musl"
    assert build_zipapp.find_wheels(directory, pins).keys() == {"psutil", "tomli_w"}
    wheel = next(directory.glob("psutil-*.whl"))
    wheel.write_bytes(wheel.read_bytes() + b"\0")
    assert build_zipapp.find_wheels(directory, pins).keys() == {"tomli_w"}


def test_without_pip_the_build_takes_that_of_an_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_zipapp.importlib.util, "find_spec", lambda name: name != "pip" or None)
    assert build_zipapp.python_with_pip(tmp_path) == str(tmp_path / "venv" / "bin" / "python")


def test_without_pip_and_venv_the_build_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(scratch: Path) -> Iterator[str]:
        return iter(())

    monkeypatch.setattr(build_zipapp, "pythons", none)
    with pytest.raises(build_zipapp.BuildFailed, match="apt install python3-venv"):
        build_zipapp.python_with_pip(tmp_path)


def test_the_locks_agree_have_only_digests_and_name_no_host() -> None:
    runtime = build_zipapp.read_pins((CHECKOUT / "requirements.lock").read_text())
    development = build_zipapp.read_pins((CHECKOUT / "requirements-dev.lock").read_text())
    assert {name: len(digests) for name, digests in runtime.items()} == {"psutil": 4, "tomli_w": 1}
    assert all(development.values())
    for name, digests in runtime.items():
        assert digests <= development[name]
    for lock in ("requirements.lock", "requirements-dev.lock"):
        assert "://" not in (CHECKOUT / lock).read_text()


def test_the_package_installs_with_pip_and_gives_a_command(tmp_path: Path) -> None:
    source = copy_checkout(tmp_path / "source")
    venv.create(tmp_path / "venv", with_pip=True)
    python = tmp_path / "venv" / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", source]
    subprocess.run(pip, check=True, timeout=300, cwd=tmp_path)
    command = tmp_path / "venv" / "bin" / "rollbridge"
    shown = subprocess.run([command, "--version"], capture_output=True, text=True, check=True, cwd="/", env={})
    assert shown.stdout == f"rollbridge {__version__}\n"
    code = "from rollbridge.runtime import self_command; print(*self_command(), sep='\\n')"
    again = subprocess.run([python, "-I", "-c", code], capture_output=True, text=True, check=True).stdout.split("\n")[
        :-1
    ]
    assert str(tmp_path / "venv") in again[-1]
    # By the path of the package its dependencies are found too.
    code = "import runpy, sys; sys.argv = ['x', '--version']\ntry: runpy.run_path(PATH, run_name='__main__')\n"
    code += "except SystemExit: import psutil, tomli_w; print(psutil.__name__)"
    shown = subprocess.run(
        [python, "-I", "-c", code.replace("PATH", repr(again[-1]))], capture_output=True, text=True, check=True, cwd="/"
    )
    assert shown.stdout.splitlines() == [f"rollbridge {__version__}", "psutil"]
