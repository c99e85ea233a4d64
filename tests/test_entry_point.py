"""The single file on the Pythons of this machine: where it runs, what it needs, what it says when it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from rollbridge import __version__
from tests.support.interpreters import NOBODY, for_everyone, supported, too_old

VERSION: Final = f"rollbridge {__version__}\n"

# Imports psutil the way the single file does, and tells where it and its library came from.
PROBE: Final = """
import os, sys
sys.path.insert(0, sys.argv[1])
from rollbridge import bundle
{before}
bundle.offer_bundled_psutil()
import psutil
assert psutil.Process().ppid() == os.getppid() and psutil.virtual_memory().total > 0
mapped = [line.split(None, 5)[5].strip() for line in open("/proc/self/maps") if "/" in line]
print(psutil.__file__)
print(next(path for path in mapped if "(deleted)" in path or "psutil" in path))
"""
NO_MEMORY_FILES: Final = """
def refuse(name, flags=0):
    raise PermissionError(13, "Permission denied")
os.memfd_create = refuse
"""
NO_PLATFORM: Final = """
from rollbridge import native
native.this_platform = lambda: "riscv64-glibc"
"""


def run(*command: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    settings = {"capture_output": True, "text": True, "check": False, "timeout": 60, **options}
    return subprocess.run([str(part) for part in command], **settings)  # type: ignore[call-overload, no-any-return]


def bare_environment(**more: str) -> dict[str, str]:
    return {"PATH": os.environ["PATH"], **more}


@pytest.mark.parametrize("python", too_old())
def test_an_old_python_is_told_in_one_line_what_is_needed_and_what_it_is(python: str, pyz: Path) -> None:
    result = run(python, pyz, "status")
    assert result.returncode == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert "needs Python 3.11 or newer" in result.stderr
    assert python in result.stderr


@pytest.mark.parametrize("python", supported())
def test_the_file_runs_with_nothing_but_the_standard_library(python: str, pyz: Path) -> None:
    result = run(python, "-I", "-S", pyz, "--version", cwd="/", env={})
    assert (result.returncode, result.stdout, result.stderr) == (0, VERSION, "")


def test_the_file_runs_as_a_program_through_the_path_and_through_a_link(pyz: Path, tmp_path: Path) -> None:
    shutil.copy(pyz, tmp_path / "rollbridge")
    (tmp_path / "link").symlink_to("rollbridge")
    path = f"{tmp_path}:{os.environ['PATH']}"
    for program, cwd in (("./rollbridge", tmp_path), ("rollbridge", Path("/")), ("./link", tmp_path)):
        shell = run("/bin/sh", "-c", f"{program} --version", cwd=cwd, env={"PATH": path})
        assert (shell.returncode, shell.stdout) == (0, VERSION), shell.stderr


def test_modules_are_found_after_a_chdir_and_after_the_link_moved_on(pyz: Path, tmp_path: Path) -> None:
    shutil.copy(pyz, tmp_path / "one.pyz")
    (tmp_path / "current").symlink_to("one.pyz")
    # An archive as the interpreter runs it, but with a stop before the command line is imported.
    code = (
        "import os, runpy, sys; sys.path.insert(0, 'current'); sys.modules['rollbridge.cli.main'] = None\n"
        "try: runpy.run_path('current', run_name='__main__')\n"
        "except ImportError: pass\n"
        "os.unlink('current'); os.chdir('/'); del sys.modules['rollbridge.cli.main']\n"
        "from rollbridge.cli.main import main; from rollbridge.runtime import self_command\n"
        "print(self_command()[-1])"
    )
    result = run(sys.executable, "-I", "-c", code, cwd=tmp_path)
    assert result.stdout == f"{tmp_path}/one.pyz\n", result.stderr


def test_an_unprivileged_user_without_home_runs_it_from_a_directory_nobody_can_write(
    pyz: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    python = for_everyone()
    directory = Path(os.path.realpath("/var/tmp"), f"rollbridge-test-{os.getpid()}")  # pytest's own are for root only
    directory.mkdir(mode=0o755)
    try:
        shutil.copy(pyz, directory / "rollbridge.pyz")
        (directory / "rollbridge.pyz").chmod(0o555)
        directory.chmod(0o555)
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": [], "cwd": directory, "env": bare_environment()}
        result = run(python, "-I", "-S", "rollbridge.pyz", "--version", **user)
        assert (result.returncode, result.stdout, result.stderr) == (0, VERSION, "")
        loaded = run(python, "-I", "-S", "-c", PROBE.format(before=""), directory / "rollbridge.pyz", **user)
        assert loaded.returncode == 0, loaded.stderr
        assert [path.name for path in directory.iterdir()] == ["rollbridge.pyz"]
    finally:
        shutil.rmtree(directory)


@pytest.mark.parametrize("python", supported())
def test_psutil_is_loaded_from_memory_and_leaves_no_file(python: str, pyz: Path, tmp_path: Path) -> None:
    result = run(python, "-I", "-S", "-c", PROBE.format(before=""), pyz, env=bare_environment(TMPDIR=str(tmp_path)))
    package, library = result.stdout.splitlines()
    assert package == f"{pyz}/bundled/psutil/__init__.py"
    assert library == "/memfd:rollbridge-psutil (deleted)"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("python", supported())
def test_psutil_is_loaded_from_an_unlinked_file_where_memory_files_are_refused(
    python: str, pyz: Path, tmp_path: Path
) -> None:
    environ = bare_environment(TMPDIR=str(tmp_path))
    result = run(python, "-I", "-S", "-c", PROBE.format(before=NO_MEMORY_FILES), pyz, env=environ)
    package, library = result.stdout.splitlines()
    assert package == f"{pyz}/bundled/psutil/__init__.py"
    assert library.startswith(str(tmp_path))
    assert library.endswith("(deleted)")
    assert list(tmp_path.iterdir()) == []


def test_the_bundled_psutil_goes_before_an_installed_one(pyz: Path, tmp_path: Path) -> None:
    (tmp_path / "psutil.py").write_text("raise RuntimeError('the installed one')")
    before = f"sys.path.insert(0, {str(tmp_path)!r})"
    result = run(sys.executable, "-I", "-c", PROBE.format(before=before), pyz)
    assert result.stdout.startswith(f"{pyz}/bundled/"), result.stderr


def test_an_installed_psutil_is_used_on_a_platform_that_is_not_bundled(pyz: Path) -> None:
    pytest.importorskip("psutil")
    result = run(sys.executable, "-I", "-c", PROBE.format(before=NO_PLATFORM), pyz)
    assert result.returncode == 0, result.stderr
    assert "site-packages" in result.stdout


def test_a_platform_without_any_psutil_gets_one_sentence_and_exit_code_1(pyz: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        f"{NO_PLATFORM}"
        "import rollbridge.cli.main, rollbridge.__main__\n"
        "rollbridge.cli.main.main = lambda: __import__('psutil')\n"
        "rollbridge.__main__.run()"
    )
    result = run(sys.executable, "-I", "-S", "-c", code, pyz)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert "does not carry it for riscv64-glibc" in result.stderr
    assert "python3-psutil" in result.stderr


def test_the_package_runs_by_the_path_of_its_entry_point_from_anywhere() -> None:
    import rollbridge

    entry = Path(rollbridge.__file__).parent / "__main__.py"
    result = run(sys.executable, "-I", entry, "--version", cwd="/", env={})
    assert (result.returncode, result.stdout) == (0, VERSION), result.stderr
