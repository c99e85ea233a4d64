from __future__ import annotations

import grp
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from rollbridge.control.listening import (
    ControlSocketError,
    SocketFile,
    SocketInUse,
    group_id,
    is_permitted,
    open_socket_file,
    peer_groups,
    remove_socket_file,
    user_id,
)
from rollbridge.control.protocol import Peer


def open_at(path: Path, mode: int = 0o600, owner: str | None = None, group: str | None = None) -> SocketFile:
    return open_socket_file(str(path), mode, owner, group)


def names_in(directory: Path) -> list[str]:
    return [entry.name for entry in directory.iterdir()]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_the_socket_has_its_mode_whatever_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        file = open_at(tmp_path / "c.sock", mode)
    finally:
        os.umask(before)
    with file.listener:
        assert mode_of(tmp_path / "c.sock") == mode
        assert names_in(tmp_path) == ["c.sock"]


def test_it_never_appears_with_other_permissions_or_before_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.sock"
    seen: list[tuple[int, int]] = []
    rename = os.rename

    def spy(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        assert not path.exists()
        found = os.stat(source, dir_fd=src_dir_fd)
        seen.append((stat.S_IMODE(found.st_mode), found.st_gid))
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(tmp_path / source))  # it listens already
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)

    monkeypatch.setattr(os, "rename", spy)
    group = grp.getgrgid(os.getegid()).gr_name
    with open_at(path, 0o640, group=group).listener:
        assert seen == [(0o640, os.getegid())]


def test_a_socket_nobody_listens_on_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.listen()
    stale.close()
    with open_at(path).listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


def test_a_live_socket_is_refused_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    with open_at(path).listener:
        with pytest.raises(SocketInUse, match=f"pid {os.getpid()} of user") as raised:
            open_at(path)
        assert raised.value.pid == os.getpid()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))


def test_a_full_backlog_is_a_busy_daemon_and_not_a_dead_one(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    clients = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(0)
        inode = path.lstat().st_ino
        try:
            while True:
                client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                clients.append(client)
                client.connect(str(path))
        except BlockingIOError:
            pass  # the backlog is full now
        with pytest.raises(SocketInUse):
            open_at(path)
        assert path.lstat().st_ino == inode
    for client in clients:
        client.close()


@pytest.mark.parametrize("kind", ["file", "directory", "dangling link", "link to a stale socket"])
def test_what_is_not_a_socket_is_never_removed(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.sock"
    if kind == "file":
        path.write_text("precious")
    elif kind == "directory":
        path.mkdir()
    elif kind == "dangling link":
        path.symlink_to(tmp_path / "nowhere")
    else:
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(tmp_path / "stale"))
        path.symlink_to(tmp_path / "stale")
    before = path.lstat()
    with pytest.raises(ControlSocketError, match="not a socket"):
        open_at(path)
    assert path.lstat() == before


def test_only_the_own_socket_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    old = open_at(path)
    path.rename(tmp_path / "aside")
    new = open_at(path)
    with old.listener, new.listener:
        remove_socket_file(old)
        assert path.lstat().st_ino == new.inode, "the successor's socket was removed"
        remove_socket_file(new)
        assert not path.exists()
        remove_socket_file(new)


def test_what_cannot_be_offered_leaves_nothing_behind_and_says_why(tmp_path: Path) -> None:
    with pytest.raises(ControlSocketError, match="no user 'nobody-of-this-name'"):
        open_at(tmp_path / "c.sock", owner="nobody-of-this-name")
    with pytest.raises(ControlSocketError, match="no group 'none-of-this-name'"):
        open_at(tmp_path / "c.sock", group="none-of-this-name")
    with pytest.raises(ControlSocketError, match="its directory cannot be used"):
        open_at(tmp_path / "missing" / "c.sock")
    with pytest.raises(ControlSocketError, match="longer than 107 bytes"):
        open_at(tmp_path / ("x" * 108))
    assert names_in(tmp_path) == []


def test_a_path_of_the_full_length_works(tmp_path: Path) -> None:
    room = 107 - len(os.fsencode(tmp_path)) - 1
    if not 0 < room < 255:
        pytest.skip("the temporary directory's path is too long for this")
    path = tmp_path / ("x" * room)
    with open_at(path).listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_an_owner_that_may_not_be_given_is_refused_with_the_way_out(public_directory: Path) -> None:
    os.seteuid(65534)
    try:
        with pytest.raises(ControlSocketError, match=r"may not give it to control\.owner"):
            open_at(public_directory / "c.sock", owner="0")
    finally:
        os.seteuid(0)
    assert names_in(public_directory) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give files away")
def test_owner_and_group_are_taken_by_name_or_number(tmp_path: Path) -> None:
    assert user_id("root") == user_id("0") == 0
    assert group_id("root") == group_id("0") == 0
    with open_at(tmp_path / "c.sock", 0o660, "65534", "12").listener:
        found = (tmp_path / "c.sock").lstat()
        assert (found.st_uid, found.st_gid, mode_of(tmp_path / "c.sock")) == (65534, 12, 0o660)


def test_the_supplementary_groups_of_a_client_are_known(tmp_path: Path) -> None:
    """Whoever may deploy usually is a member of control.group beside a group of their own."""
    groups = (4001, 4002) if os.geteuid() == 0 else tuple(os.getgroups())
    connect = "import os, socket, sys; os.geteuid() or os.setgroups([4001, 4002]); "
    connect += "c = socket.socket(socket.AF_UNIX); c.connect(sys.argv[1]); c.recv(1)"
    with open_at(tmp_path / "c.sock").listener as listener:
        client = subprocess.Popen([sys.executable, "-c", connect, str(tmp_path / "c.sock")])
        listener.setblocking(True)
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            assert sorted(peer_groups(connection)) == sorted(groups)
        assert client.wait(20) == 0


def test_who_may_command() -> None:
    with socket.socket(socket.AF_UNIX) as listener:

        def may(mode: int, uid: int, gid: int, *groups: int) -> bool:
            file = SocketFile(listener, "/c.sock", 0, 0, mode, uid=1000, gid=500)
            return is_permitted(Peer(1, uid, gid), groups, file, daemon_uid=900)

        for anybody in (0, 900, 1000):
            assert may(0o600, anybody, 77)
        assert not may(0o600, 1001, 500)
        assert may(0o660, 1001, 500)
        assert may(0o660, 1001, 77, 3, 500)
        assert not may(0o640, 1001, 500), "reading alone connects to nothing"
        assert not may(0o660, 1001, 77)
        assert may(0o666, 1001, 77)
        assert not may(0o606, 1001, 500), "the group's bits count for its members, not the others'"
