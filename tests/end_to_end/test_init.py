"""``init`` in real directories: what it writes is what `validate` accepts and `deploy` brings up."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support.application import Application


def init(application: Application, directory: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Run it in ``directory`` for the application's config file."""
    argv = [*application.command, "init", "-c", str(application.config_path), *options]
    return subprocess.run(argv, cwd=directory, env=application.env, capture_output=True, text=True, timeout=60)


def moved_to_free_ports(application: Application, text: str) -> str:
    """Return the config with the test's own ports and sockets: other tests run beside this one."""
    first, last = application.web_ports
    text = text.replace("port = 8182 ", f"port = {application.port} ").replace("18182-18299", f"{first}-{last}")
    text = re.sub(r"^application = .*", f'application = "{application.name}"', text, flags=re.MULTILINE)
    control = f'[control]\npath = "{application.control_path}"'
    text = re.sub(r"^# \[control\]$", control, text, flags=re.MULTILINE)
    return f'runtime_dir = "{application.runtime_dir}"\n{text}'


def test_a_wsgi_app_is_deployed_with_what_init_wrote(application: Application) -> None:
    release = application.release("r1", app="wsgi_app")
    written = init(application, release)
    assert (written.returncode, written.stdout) == (0, f"wrote {application.config_path}\n"), written
    assert "web: gunicorn --bind" in written.stderr
    application.run("validate")
    application.config_path.write_text(moved_to_free_ports(application, application.config_path.read_text()))
    application.run(*application.deploy_arguments(release), "--ensure-daemon")
    assert application.get("/ping").body == b"pong"
    application.shutdown()


def test_a_file_that_is_there_is_never_overwritten(application: Application) -> None:
    application.config_path.write_text("mine")
    refused = init(application, application.root)
    assert refused.returncode == 4
    assert "Move it away" in refused.stderr
    shown = init(application, application.root, "--stdout")
    assert shown.returncode == 0
    assert "change the command below" in shown.stdout
    assert application.config_path.read_text() == "mine"


def test_what_cannot_be_written_is_a_sentence(application: Application) -> None:
    application.config_path = application.root / "missing" / "rollbridge.toml"
    failed = init(application, application.root)
    assert failed.returncode == 1
    assert failed.stderr == (
        f"rollbridge: {application.config_path} cannot be written: No such file or directory. Nothing was written.\n"
    )
