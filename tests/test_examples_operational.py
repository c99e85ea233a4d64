"""The units and the deploy script in examples/: what they say is right, and they do what they say."""

from __future__ import annotations

import fcntl
import re
import shlex
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from rollbridge.config.load import load_config
from tests.support.application import Application, Command, Result
from tests.support.waiting import wait_until

EXAMPLES = Path(__file__).parent.parent / "examples"
SERVICE = EXAMPLES / "rollbridge.service"
SOCKET = EXAMPLES / "rollbridge.socket"
DEPLOY = EXAMPLES / "deploy.sh"


def read_unit(path: Path) -> dict[str, dict[str, list[str]]]:
    """Section to key to its values, in order; continued lines are joined as systemd does (systemd.syntax(7))."""
    unit: dict[str, dict[str, list[str]]] = {}
    section: dict[str, list[str]] = {}
    for line in path.read_text().replace("\\\n", " ").splitlines():
        text = line.strip()
        if not text or text.startswith(("#", ";")):
            continue
        if text.startswith("["):
            section = unit.setdefault(text.strip("[]"), {})
        else:
            key, _, value = text.partition("=")
            section.setdefault(key.strip(), []).append(value.strip())
    return unit


def one(unit: dict[str, dict[str, list[str]]], section: str, key: str) -> str:
    (value,) = unit[section][key]
    return value


# --- the units


def test_systemd_has_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        pytest.skip("systemd-analyze is not installed")
    service, socket = tmp_path / "ticket-server.service", tmp_path / "ticket-server.socket"
    # The program, the user and the directory of the example do not exist here, which verify would complain about.
    text = SERVICE.read_text().replace("User=ticket-server", "User=root").replace("Group=ticket-server", "Group=root")
    text = text.replace("WorkingDirectory=/srv/ticket-server", f"WorkingDirectory={tmp_path}")
    service.write_text(text.replace("=/opt/rollbridge/rollbridge.pyz", "=/bin/echo"))
    socket.write_text(SOCKET.read_text())
    result = subprocess.run(
        [analyze, "verify", str(service), str(socket)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_the_service_lets_the_daemon_stop_its_processes_and_survives_its_death() -> None:
    unit = read_unit(SERVICE)
    assert set(unit) == {"Unit", "Service", "Install"}
    assert one(unit, "Service", "Type") == "notify"
    assert one(unit, "Service", "NotifyAccess") == "main"
    assert one(unit, "Service", "WatchdogSec") == "60s"
    assert one(unit, "Service", "KillMode") == "process"
    assert one(unit, "Service", "Restart") == "on-failure"
    assert one(unit, "Service", "RestartPreventExitStatus") == "2"
    assert one(unit, "Service", "RuntimeDirectoryPreserve") == "yes"
    assert one(unit, "Service", "OOMPolicy") == "continue"
    # In a /tmp of its own the default control socket would be out of everybody's reach.
    assert "PrivateTmp" not in unit["Service"]
    start, reload = (one(unit, "Service", key).partition(" daemon")[0] for key in ("ExecStart", "ExecReload"))
    assert reload == f"{start} reload"


# What the directives of the unit take away, as far as it can be had without systemd: the last two are filters of system
# calls that nothing here uses.
TAKEN_AWAY = {
    "NoNewPrivileges": "--no-new-privs",
    "ProtectSystem": "/usr /boot /etc",
    "ProtectControlGroups": "/sys/fs/cgroup",
    "ProtectKernelTunables": "/proc/sys /proc/irq /sys",
    "ProtectKernelModules": "/lib/modules",
    "ProtectKernelLogs": "/proc/kmsg",
    "RestrictRealtime": "",
    "RestrictSUIDSGID": "",
    "LockPersonality": "",
}
HARDENED = """
set -e
mount --make-rprivate /
for path in %s; do
    [ -e "$path" ] || continue
    mount --rbind "$path" "$path"
    mount -o remount,bind,ro "$path"
done
if touch /etc/rollbridge-test 2>/dev/null; then
    rm /etc/rollbridge-test
    echo "/etc can be written" >&2
    exit 1
fi
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""


def test_the_daemon_can_do_without_what_the_service_takes_away(application: Application) -> None:
    unit = read_unit(SERVICE)["Service"]
    hardening = {key for key in unit if key.startswith(("Protect", "Private", "Restrict", "NoNew", "Lock"))}
    assert hardening - {"RestartPreventExitStatus"} == set(TAKEN_AWAY)
    paths = " ".join(value for value in TAKEN_AWAY.values() if value.startswith("/"))
    prefix = ("unshare", "--mount", "sh", "-c", HARDENED % paths, "hardened")
    probe = subprocess.run([*prefix, "true"], capture_output=True, text=True, timeout=30, check=False)
    if probe.returncode != 0:
        pytest.skip(f"such a view of the file system cannot be made here: {probe.stderr.strip()}")
    application.processes["jobs"] = application.worker(memory={"limit": "512MiB", "check_interval": "100ms"})
    application.config["proxy"] |= {"workers": 2, "access_log": str(application.root / "access.log")}
    application.release("v1")
    application.release("v2")
    application.write_config()
    plain = application.command
    application.command = (*prefix, *plain)
    application.start_daemon()
    application.command = plain
    for name in ("v1", "v2"):
        application.deploy(name)
    status = Path(f"/proc/{application.daemon_pid()}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapBnd:\t0000000000000000" in status
    with application.websocket() as websocket:
        assert websocket.echo("hello").startswith("v2:")
    pid = application.serving()[1]
    application.get("/crash")
    wait_until(lambda: application.serving()[1] != pid, "the web process has been started again")
    application.run("reload")
    application.run("rollback")
    assert application.serving()[0] == "v1"
    application.shutdown()


def test_the_directories_of_the_service_are_those_of_its_configuration(tmp_path: Path) -> None:
    unit = read_unit(SERVICE)
    settings = [
        line[1:].strip() for line in SERVICE.read_text().splitlines() if re.match(r"# +(\w+ +=|\w+_\w+ = |\[)", line)
    ]
    config = tmp_path / "rollbridge.toml"
    config.write_text(
        'application = "ticket-server"\n'
        + "\n".join(settings)
        + '\n[processes.web]\npolicy = "proxied"\ncommand = "app"\nport = "18182-18299"\n'
    )
    loaded = load_config(str(config), {})
    assert loaded.runtime_dir == f"/run/{one(unit, 'Service', 'RuntimeDirectory')}"
    assert loaded.state_path == f"/var/lib/{one(unit, 'Service', 'StateDirectory')}/state.json"
    assert loaded.control.path.startswith(f"{loaded.runtime_dir}/")
    port = one(read_unit(SOCKET), "Socket", "ListenStream").rpartition(":")[2]
    assert int(port) == loaded.proxy.port


def test_the_command_of_the_service_starts_empty_and_resumes_later(application: Application) -> None:
    application.config["state_path"] = str(application.root / "state.json")
    application.release("v1")
    application.write_config()
    line = one(read_unit(SERVICE), "Service", "ExecStart")
    line = line.replace("/opt/rollbridge/rollbridge.pyz", shlex.join(application.command))
    line = line.replace("/srv/ticket-server/rollbridge.toml", str(application.config_path))

    def start() -> Command:
        daemon = Command(shlex.split(line), application.env, Path("/"))
        application.commands.append(daemon)
        application.daemon = daemon
        wait_until(lambda: application.daemon_pid() == daemon.pid, lambda: f"it answers: {daemon.stderr}")
        return daemon

    start()
    assert application.status()["active_release_id"] is None
    application.deploy("v1")
    application.shutdown()
    start()
    assert application.serving()[0] == "v1"
    application.run("stop")
    application.shutdown()
    start()
    assert application.status()["active_release_id"] is None


def test_a_daemon_takes_the_port_that_systemd_holds_and_answers_who_came_before_it(application: Application) -> None:
    activate = shutil.which("systemd-socket-activate")
    if activate is None:
        pytest.skip("systemd-socket-activate is not installed")
    path = application.release("v1")
    application.write_config()
    daemon = Command(
        (
            *(activate, "--listen", f"127.0.0.1:{application.port}"),
            *(f"--setenv={name}" for name in application.env),
            *(*application.command, "daemon", "--config", str(application.config_path), "--release-path", str(path)),
        ),
        application.env,
        application.root,
    )
    application.commands.append(daemon)
    application.daemon = daemon
    wait_until(lambda: "Listening on" in daemon.stderr, "the port is open")
    # The first connection makes it start the daemon, and is not refused: it waits in the socket's queue for a worker.
    assert application.get().status in (200, 503)
    assert wait_until(application.serving, lambda: f"the release serves: {daemon.stderr}")[0] == "v1"
    assert wait_until(application.daemon_pid, "the daemon answers") == daemon.pid


# --- the deploy script


@pytest.mark.parametrize("shell", ["sh", "dash", "bash"])
def test_the_deploy_script_is_plain_shell(shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([program, "-n", str(DEPLOY)], check=True, timeout=30)


def test_shellcheck_has_nothing_to_say_against_the_deploy_script() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")
    result = subprocess.run([shellcheck, str(DEPLOY)], capture_output=True, text=True, timeout=60, check=False)
    assert (result.returncode, result.stdout) == (0, "")


class Deployer:
    """Runs the script for one application."""

    def __init__(self, application: Application) -> None:
        self.application = application
        self.releases = application.root / "releases"
        self.program = application.root / "rollbridge"
        self.program.write_text(f'#!/bin/sh\nexec {shlex.join(application.command)} "$@"\n')
        self.program.chmod(0o755)
        application.write_config()

    def pack(self, prepare: str | None = None, **behaviour: object) -> Path:
        """An archive of a release of the stub app; ``prepare`` becomes its bin/prepare."""
        path = self.application.release("packing", **behaviour)
        if prepare is not None:
            (path / "bin").mkdir()
            (path / "bin" / "prepare").write_text(f"#!/bin/sh\n{prepare}\n")
            (path / "bin" / "prepare").chmod(0o755)
        archive = self.application.root / "release.tar.gz"
        with tarfile.open(archive, "w:gz") as tar:
            tar.add(path, ".")
        shutil.rmtree(path)
        return archive

    def run(self, *arguments: str | Path, expect: int, **environ: str) -> Result:
        root = self.application.root
        command = Command(
            ["/bin/sh", str(DEPLOY), *map(str, arguments)],
            {**self.application.env, "APP_ROOT": str(root), "ROLLBRIDGE": str(self.program), **environ},
            root,
        )
        self.application.commands.append(command)
        result = command.finish()
        assert result.code == expect, str(result)
        return result

    def directories(self) -> set[str]:
        return {path.name for path in self.releases.iterdir() if path.is_dir()}


@pytest.fixture
def deployer(application: Application) -> Deployer:
    return Deployer(application)


def test_the_script_starts_the_daemon_and_switches_from_release_to_release(deployer: Deployer) -> None:
    archive = deployer.pack(prepare="pwd > prepared")
    deployer.run(archive, "v1", expect=0)
    assert deployer.application.serving()[0] == "v1"
    # Prepared where it will run: a virtual environment, for one, holds its own path.
    assert (deployer.releases / "v1" / "prepared").read_text() == f"{deployer.releases / 'v1'}\n"
    pid = deployer.application.daemon_pid()
    deployer.run(archive, "v2", expect=0)
    assert deployer.application.serving()[0] == "v2"
    assert deployer.application.daemon_pid() == pid
    # The lock is given back though a daemon was started while it was held.
    with (deployer.releases / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_without_an_id_the_release_is_named_by_the_time(deployer: Deployer) -> None:
    deployer.run(deployer.pack(), expect=0)
    (name,) = deployer.directories()
    assert re.fullmatch(r"\d{8}-\d{6}", name)
    assert deployer.application.serving()[0] == name


def test_a_release_that_fails_leaves_the_old_one_serving_and_its_directory_for_a_look(deployer: Deployer) -> None:
    deployer.run(deployer.pack(), "v1", expect=0)
    result = deployer.run(deployer.pack(exit_code=3, lines=["no database"]), "v2", expect=1)
    assert "no database" in result.stderr
    assert "deploy: release v2 failed" in result.stderr
    assert deployer.application.serving()[0] == "v1"
    assert deployer.directories() == {"v1", "v2"}


def test_a_preparation_that_fails_changes_nothing(deployer: Deployer) -> None:
    deployer.run(deployer.pack(prepare="exit 7"), "v1", expect=1)
    assert deployer.directories() == set()
    assert not deployer.application.control_path.exists()


def test_a_broken_configuration_is_told_and_changes_nothing(deployer: Deployer) -> None:
    deployer.run(deployer.pack(), "v1", expect=0)
    good = deployer.application.config_path.read_text()
    deployer.application.config_path.write_text(good.replace("policy", "polici"))
    result = deployer.run(deployer.pack(), "v2", expect=2)
    deployer.application.config_path.write_text(good)
    assert "polici" in result.stderr
    assert deployer.directories() == {"v1"}
    assert deployer.application.serving()[0] == "v1"


def test_no_daemon_is_told_by_its_exit_code_when_none_may_be_started(deployer: Deployer) -> None:
    result = deployer.run(deployer.pack(), "v1", expect=3, DAEMON="running")
    assert "no daemon" in result.stderr
    assert deployer.directories() == {"v1"}


def test_a_second_script_at_the_same_time_is_refused(deployer: Deployer) -> None:
    archive = deployer.pack()
    with (deployer.releases / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        deployer.run(archive, "v1", expect=4)
    assert deployer.directories() == set()


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        ((), {}, "usage"),
        (("a", "b", "c"), {}, "usage"),
        (("missing.tar.gz", "v1"), {}, "missing.tar.gz"),
        (("release.tar.gz", "../v1"), {}, "../v1"),
        (("release.tar.gz", "v1;ls"), {}, "v1;ls"),
        (("release.tar.gz", "v1"), {"DAEMON": "maybe"}, "maybe"),
        (("release.tar.gz", "v1"), {"CONFIG": "/nowhere.toml"}, "/nowhere.toml"),
    ],
)
def test_the_script_called_wrongly_says_so(
    deployer: Deployer, arguments: tuple[str, ...], environ: dict[str, str], said: str
) -> None:
    deployer.pack()
    result = deployer.run(*arguments, expect=2, **environ)
    assert said in result.stderr
    assert deployer.directories() == set()


def test_an_id_that_is_there_already_is_refused_and_kept(deployer: Deployer) -> None:
    archive = deployer.pack()
    deployer.run(archive, "v1", expect=0)
    deployer.run(archive, "v1", expect=2)
    assert deployer.directories() == {"v1"}
    assert deployer.application.serving()[0] == "v1"


def test_directories_that_status_has_forgotten_are_deleted_unless_something_runs_in_them(deployer: Deployer) -> None:
    application = deployer.application
    application.config["release_retention"] = {"keep": 1}
    application.processes["broker"] = application.worker("service")  # keeps running in the directory of v1
    application.write_config()
    archive = deployer.pack()
    for number in range(1, 5):
        deployer.run(archive, f"v{number}", expect=0, KEEP="1")
        wait_until(
            lambda: all(one["state"] in ("active", "stopped") for one in application.status()["releases"]),
            "the old release is stopped",
        )
    deployer.run(archive, "v5", expect=0, KEEP="1")
    listed = {one["release_id"] for one in application.status()["releases"]}
    assert listed < {"v3", "v4", "v5"}
    assert deployer.directories() >= {"v1", "v5"} | listed
    assert "v2" not in deployer.directories()
    application.run("rollback")
    assert application.serving()[0] == "v4"


def test_nothing_is_deleted_when_status_cannot_be_read(deployer: Deployer) -> None:
    deployer.run(deployer.pack(), "v1", expect=0)
    (deployer.releases / "forgotten").mkdir()
    program = deployer.program.read_text()
    deployer.program.write_text(program.replace("exec", 'case " $* " in *" status "*) exit 3 ;; esac\nexec'))
    result = deployer.run(deployer.pack(), "v2", expect=0, KEEP="1")
    assert "no old release was deleted" in result.stderr
    assert "forgotten" in deployer.directories()
