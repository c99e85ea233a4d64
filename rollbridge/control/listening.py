"""The control socket as a file: it appears with its final permissions, and only its own is ever removed."""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import socket
import stat
import struct
from pathlib import Path
from typing import Final, NamedTuple

from rollbridge.control.protocol import Peer

# sockaddr_un holds 108 bytes, a final NUL included; a longer path could be bound here but not connected to.
MAX_PATH_BYTES: Final = 107
BACKLOG: Final = 128

_SO_PEERGROUPS: Final = 59  # Linux 4.13; Python has no name for it
_PEERGROUPS_BYTES: Final = 1024  # the most that Python's getsockopt takes: 256 groups
_PEERCRED = struct.Struct("iii")


class ControlSocketError(OSError):
    """The control socket cannot be offered; the text is for the operator."""


class SocketInUse(ControlSocketError):
    """Somebody listens on the path already; ``pid`` and ``user`` are None when the kernel does not tell."""

    def __init__(self, path: str, pid: int | None, user: str | None) -> None:
        holder = f" by pid {pid} of user {user}" if pid is not None else ""
        super().__init__(
            f"control socket {path} is in use{holder}. Use that daemon, end it with `rollbridge shutdown`, "
            f"or choose another control.path"
        )
        self.pid = pid
        self.user = user


class SocketFile(NamedTuple):
    """A listening socket and the file it is known by."""

    listener: socket.socket
    path: str
    device: int
    inode: int
    mode: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected, or who listens when ``connection`` is the connecting end."""
    size = _PEERCRED.size
    return Peer(*_PEERCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)))


def peer_groups(connection: socket.socket) -> tuple[int, ...]:
    """Return the supplementary groups of the peer at the time of its connect.

    Empty on kernels before 4.13, and for a peer in more than 256 groups.
    """
    try:
        raw = connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _PEERGROUPS_BYTES)
    except OSError:
        return ()
    return struct.unpack(f"{len(raw) // 4}I", raw)


def is_permitted(peer: Peer, groups: tuple[int, ...], file: SocketFile, daemon_uid: int) -> bool:
    """Whether ``peer`` may command the daemon: root, its user, the socket's owner, and whom the mode lets write.

    The kernel asks the mode too, but only when the client connects by the path.
    """
    if peer.uid in (0, daemon_uid, file.uid):
        return True
    if file.gid in (peer.gid, *groups):
        return bool(file.mode & stat.S_IWGRP)
    return bool(file.mode & stat.S_IWOTH)


def user_name(uid: int) -> str:
    """Return the name of ``uid``, or its number when it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def user_id(user: str) -> int:
    """Return the uid of a user's name or number; raise ControlSocketError when there is no such user."""
    if user.isdecimal():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ControlSocketError(
            f"control.owner: there is no user {user!r} on this machine. Create the user, or name another"
        ) from None


def group_id(group: str) -> int:
    """Return the gid of a group's name or number; raise ControlSocketError when there is no such group."""
    if group.isdecimal():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ControlSocketError(
            f"control.group: there is no group {group!r} on this machine. Create the group, or name another"
        ) from None


def open_socket_file(path: str, mode: int, owner: str | None, group: str | None) -> SocketFile:
    """Listen on ``path`` with these permissions, replacing a socket nobody listens on.

    Raises SocketInUse when somebody does, ControlSocketError for everything else that an operator can mend.
    """
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ControlSocketError(
            f"control socket path {path} is longer than {MAX_PATH_BYTES} bytes, which no Unix socket can be. "
            f"Choose a shorter control.path"
        )
    uid = user_id(owner) if owner is not None else -1
    gid = group_id(group) if group is not None else -1
    refuse_what_is_not_ours_to_replace(path)
    directory, name = os.path.split(path)
    try:
        directory_fd = os.open(directory or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ControlSocketError(
            f"control socket {path}: its directory cannot be used ({error.strerror}). Create it, or choose another "
            f"control.path"
        ) from error
    try:
        return _open_in(directory_fd, name, path, mode, uid, gid)
    finally:
        os.close(directory_fd)


def _open_in(directory_fd: int, name: str, path: str, mode: int, uid: int, gid: int) -> SocketFile:
    # Everything happens under another name: a client never meets a socket whose permissions are not final,
    # or that is bound but does not listen yet. Through the directory's descriptor, so that the other name
    # does not have to fit into sockaddr_un beside the directory.
    temporary = f".{name[:80]}.{os.getpid()}"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    step = "bind"
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory_fd)  # of a daemon that died here and had our pid
        # The mode of the unbound socket limits the file's: no instant in which others could connect, no umask touched.
        os.fchmod(listener.fileno(), stat.S_IRUSR | stat.S_IWUSR)
        listener.bind(f"/proc/self/fd/{directory_fd}/{temporary}")
        try:
            step = "chown"
            if (uid, gid) != (-1, -1):
                os.chown(temporary, uid, gid, dir_fd=directory_fd, follow_symlinks=False)
            step = "chmod"
            os.chmod(temporary, mode, dir_fd=directory_fd)
            listener.listen(BACKLOG)
            found = os.stat(temporary, dir_fd=directory_fd, follow_symlinks=False)
            step = "rename"
            os.rename(temporary, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        except BaseException:
            os.unlink(temporary, dir_fd=directory_fd)
            raise
    except OSError as error:
        listener.close()
        raise ControlSocketError(_why_not(path, step, error)) from error
    except BaseException:
        listener.close()
        raise
    return SocketFile(listener, path, found.st_dev, found.st_ino, mode, found.st_uid, found.st_gid)


def _why_not(path: str, step: str, error: OSError) -> str:
    us = user_name(os.geteuid())
    if step == "chown" and error.errno == errno.EPERM:
        return (
            f"control socket {path}: user {us} may not give it to control.owner or control.group. Run the daemon as "
            f"root or as that owner, name a group {us} is in, or remove the setting"
        )
    if step == "rename" and error.errno in (errno.EPERM, errno.EACCES):
        return (
            f"control socket {path}: a socket of another user is in the way and may not be replaced. Remove it as "
            f"its owner, or choose another control.path"
        )
    if error.errno in (errno.EPERM, errno.EACCES):
        return (
            f"control socket {path}: user {us} may not create files in its directory. Change that, or choose "
            f"another control.path"
        )
    return f"control socket {path}: {step} failed: {error.strerror}. Mend that, or choose another control.path"


def refuse_what_is_not_ours_to_replace(path: str) -> None:
    """Return when nothing, or a socket nobody listens on, is at ``path``; raise ControlSocketError otherwise."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise ControlSocketError(
            f"control socket {path} cannot be looked at ({error.strerror}). Choose another control.path"
        ) from error
    if not stat.S_ISSOCK(found.st_mode):
        raise ControlSocketError(
            f"control socket {path}: what is there is not a socket, so it is left alone. Move it away, or choose "
            f"another control.path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return  # nobody listens: left behind by a daemon that was killed
        except BlockingIOError:
            raise SocketInUse(path, None, None) from None  # a full backlog is a busy daemon, not a dead one
        except PermissionError:
            raise SocketInUse(path, None, None) from None  # somebody's, and not for us to try
        except OSError as error:
            raise ControlSocketError(
                f"control socket {path} cannot be tried ({error.strerror}). Choose another control.path"
            ) from error
        holder = peer_of(probe)
    raise SocketInUse(path, holder.pid, user_name(holder.uid))


def is_as_wanted(file: SocketFile, path: str, mode: int, owner: str | None, group: str | None) -> bool:
    """Whether ``file`` is still at ``path`` with these permissions."""
    try:
        found = os.lstat(path)
    except OSError:
        return False
    return (
        (file.path, file.mode) == (path, mode)
        and (file.device, file.inode) == (found.st_dev, found.st_ino)
        and (owner is None or user_id(owner) == file.uid)
        and (group is None or group_id(group) == file.gid)
    )


def remove_socket_file(file: SocketFile) -> None:
    """Remove the path when it still is this socket; a successor that took it over keeps it.

    To be called while the listener is open: as long as it is, its inode number belongs to nobody else.
    """
    with contextlib.suppress(FileNotFoundError):
        found = os.lstat(file.path)
        if (found.st_dev, found.st_ino) == (file.device, file.inode):
            Path(file.path).unlink()
