"""``predeploy-cleanup``: what is asked of it, what it refuses, how its outcome is told."""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from rollbridge.cli.cleanup_daemon import Mismatch, end_mismatch, find_mismatch, refuse_foreign, start_again
from rollbridge.cli.errors import DONE, FAILED, REFUSED, CliError
from rollbridge.cli.failures import visible
from rollbridge.cli.output import print_note, print_result
from rollbridge.cli.render import WIDTH
from rollbridge.cli.session import Request, absolute_path
from rollbridge.config.load import load_config
from rollbridge.control.client import ControlClient
from rollbridge.process.identity import read_boot_id
from rollbridge.runtime import runtime_info
from rollbridge.takeover.cleanup import Cleaned, Cleanup, Prepared, warnings
from rollbridge.takeover.forcing import force_end, write_after_force
from rollbridge.takeover.presence import Presence, advice, judge, observe
from rollbridge.takeover.survey import KnownState, read_state, survey

if TYPE_CHECKING:
    from rollbridge.config.model import Config
    from rollbridge.config.reach import ClientSettings
    from rollbridge.takeover.legacy import Member
    from rollbridge.takeover.orphans import Orphan

_NOTHING_STOPPED = "Nothing was stopped."


def clean_up(args: argparse.Namespace, settings: ClientSettings) -> int:
    """Stop what the first deploy replaces, or say why not; the caller holds the lock of all that recovers."""
    config = load_config(absolute_path(args.config), os.environ)
    _check_release(args)
    seen = observe(settings)
    presence = judge(seen)
    status = _status(settings) if presence is Presence.ANSWERS else None
    if presence not in (Presence.ANSWERS, Presence.NONE):
        raise CliError(f"{advice(presence, seen, settings.control.path)} {_NOTHING_STOPPED}", FAILED)
    if status is not None and status.get("active_release_id"):
        return _say_nothing_to_do(args, f"release {status['active_release_id']} is active")
    mismatch = find_mismatch(status, config, runtime_info().digest) if status is not None else None
    if mismatch is not None:
        refuse_foreign(mismatch)
    known = read_state(settings.state_path)
    if known.is_newer:
        raise CliError(f"{known.complaint}. {_NOTHING_STOPPED}", REFUSED)
    orphans = survey(known, settings.runtime_dir) if status is None else []
    if orphans and _was_serving(known):
        return _say_nothing_to_do(
            args,
            f"release {known.state.get('active')} is active though its daemon is gone; `rollbridge ensure-daemon` "
            f"takes over what runs",
        )
    if orphans and known.complaint:
        raise CliError(
            f"{known.complaint}, and {len(orphans)} process(es) of an earlier daemon live. See `rollbridge recover`; "
            f"`rollbridge recover --force` stops them. {_NOTHING_STOPPED}",
            FAILED,
        )
    daemon_pid = _daemon_pid(status) if status is not None else None
    told: set[str] = set()

    def tell(text: str) -> None:
        if text not in told and not args.json:
            told.add(text)
            print_note(f"rollbridge: {text}")

    cleanup = Cleanup(config, [pid for pid in (daemon_pid, seen.holder) if pid], tell)
    prepared = cleanup.prepare()
    _check_named(prepared)
    if args.dry_run:
        return _show(args, prepared, orphans, mismatch)
    for warning in warnings(prepared):
        tell(warning)
    needs_restart = mismatch is not None and mismatch.needs_restart
    if mismatch is not None:
        end_mismatch(args, settings, mismatch, tell)
    stopped_orphans = _stop_orphans(known, orphans, config)
    outcome = cleanup.carry_out(is_port_ours=status is not None and not needs_restart)
    return _tell_outcome(
        args, outcome, prepared, stopped_orphans, config, lambda: start_again(args, tell) if needs_restart else None
    )


# What it refuses


def _check_release(args: argparse.Namespace) -> None:
    """Raise CliError for a release that could not be deployed: the old one would be stopped for nothing."""
    if args.release_path is None:
        return
    path = absolute_path(args.release_path)
    if not os.path.isdir(path):  # noqa: PTH112
        raise CliError(f"release path {path} is not a directory. Prepare the release first. {_NOTHING_STOPPED}", FAILED)


def _check_named(prepared: Prepared) -> None:
    """Raise CliError when a screen or a pid file names what must not be touched."""
    for spared in prepared.plan.spared:
        if spared.is_named:
            raise CliError(
                f"{spared.meant_by} is pid {spared.pid}, which is never touched: {spared.why}. Run this from "
                f"elsewhere, such as another terminal, or correct the config. {_NOTHING_STOPPED}",
                REFUSED,
            )


def _was_serving(known: KnownState) -> bool:
    return bool(known.state.get("active")) and known.recorded.boot_id == read_boot_id()


# What it does besides


def _stop_orphans(known: KnownState, orphans: list[Orphan], config: Config) -> list[Orphan]:
    """Stop what an earlier daemon left without a release that serves; raise CliError for what cannot be stopped."""
    if not orphans:
        return []
    from rollbridge.daemon.events import format_utc
    from rollbridge.daemon.lock import DaemonLock, LockHeld

    try:
        lock = DaemonLock(config.runtime_dir)
    except LockHeld as error:
        raise CliError(f"{error}. {_NOTHING_STOPPED}", REFUSED) from error
    try:
        forced = force_end(orphans, config)
        write_after_force(known, orphans, forced.survivors, format_utc(time.time()))
    except OSError as error:
        raise CliError(f"state file {known.path} cannot be written: {error.strerror}.") from error
    finally:
        lock.release()
    if forced.survivors:
        lines = [one.text for one in forced.survivors]
        raise CliError("\n  ".join(["what an earlier daemon left cannot be stopped:", *lines]), FAILED)
    return list(forced.stopped)


def _status(settings: ClientSettings) -> Request:
    with ControlClient(settings.control.path, settings.control.owner) as client:
        result = client.request({"command": "status"}).get("result")
    return result if isinstance(result, dict) else {}


def _daemon_pid(status: Request) -> int | None:
    daemon = status.get("daemon")
    pid = daemon.get("pid") if isinstance(daemon, dict) else None
    return pid if isinstance(pid, int) else None


# What it tells


def _say_nothing_to_do(args: argparse.Namespace, why: str) -> int:
    text = f"nothing to do: {why}"
    print_result(args, {"status": "success", "message": text, "stopped": [], "commands": []}, text)
    return DONE


def _show(args: argparse.Namespace, prepared: Prepared, orphans: list[Orphan], mismatch: Mismatch | None) -> int:
    """Print what would be stopped, and why each process is among it."""
    document: Request = {
        "status": "success",
        "dry_run": True,
        "daemon": mismatch.remedy if mismatch is not None else None,
        "orphans": [orphan.document() for orphan in orphans],
        "commands": [command.text for command in prepared.commands],
        "stop": [_document(member, prepared) for member in prepared.plan.members],
        "spared": [{"pid": one.pid, "meant_by": one.meant_by, "why": one.why} for one in prepared.plan.spared],
        "warnings": warnings(prepared),
    }
    lines = _wrapped(f"would {mismatch.remedy}") if mismatch is not None else []
    lines += [f"would stop orphan {orphan.suspect.id} (pid {orphan.pid})" for orphan in orphans]
    lines += [_cut(f"would run: {command.text}") for command in prepared.commands]
    if prepared.plan.members:
        lines += ["would stop:", *tree_lines(prepared)]
    for one in prepared.plan.spared:
        lines += _wrapped(f"left alone: pid {one.pid} ({one.meant_by}): {one.why}")
    for warning in warnings(prepared):
        lines += _wrapped(f"warning: {warning}")
    print_result(args, document, "\n".join(lines) or "nothing would be stopped: nothing that is meant runs")
    return DONE


def tree_lines(prepared: Prepared) -> list[str]:
    """Return the tree, a line for each process: number, why, command; children below their parents."""
    return [
        _cut(
            f"{'  ' * min(member.depth + 1, 10)}{member.row.pid}  {member.why}: "
            f"{prepared.seen.commands.get(member.row.pid, '')}"
        )
        for member in prepared.plan.members
    ]


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(visible(text), WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)


def _cut(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= WIDTH else f"{shown[: WIDTH - 2]}.."


def _document(member: Member, prepared: Prepared) -> Request:
    return {
        "pid": member.row.pid,
        "parent": member.row.parent,
        "why": member.why,
        "command": prepared.seen.commands.get(member.row.pid, ""),
    }


def _tell_outcome(
    args: argparse.Namespace,
    outcome: Cleaned,
    prepared: Prepared,
    orphans: list[Orphan],
    config: Config,
    start_daemon: Callable[[], None],
) -> int:
    stopped = [_document(member, prepared) for member in outcome.stopped]
    data: Request = {
        "stopped": stopped,
        "orphans": [orphan.document() for orphan in orphans],
        "commands": [command.text for command in prepared.commands],
        "alive": [survivor.document() for survivor in outcome.survivors],
        "returned": [one.document() for one in outcome.returned],
        "failed_commands": list(outcome.failed_commands),
    }
    problem = problem_of(outcome, config)
    if problem:
        raise CliError(f"{problem} Do not deploy yet.", FAILED, data)
    start_daemon()
    count = len(stopped) + len(orphans)
    done = [f"stopped {count} process(es)"] if count else []
    done += [f"ran {command.text}" for command in prepared.commands]
    text = "; ".join(done) or "nothing that is to be replaced runs"
    if config.legacy_takeover is None:
        text = "nothing to replace: the config has no [legacy_takeover]"
    print_result(args, {"status": "success", "message": text, **data}, text)
    sys.stdout.flush()
    return DONE


def problem_of(outcome: Cleaned, config: Config) -> str:
    """Return what is wrong, lines and all; empty when all is well."""
    if outcome.failed_commands:
        return (
            "\n  ".join(["stopping failed, and no process was signalled:", *outcome.failed_commands, ""]).rstrip() + "."
        )
    if outcome.survivors:
        lines = [f"pid {one.pid} ({one.command[:60]}): {one.why}" for one in outcome.survivors]
        return "\n  ".join([f"{len(lines)} process(es) of the old application still live:", *lines]) + "."
    if outcome.returned:
        lines = [f"pid {one.pid} ({one.command[:60]}), {one.by}" for one in outcome.returned]
        return "\n  ".join(["stopped, and started again:", *lines]) + "."
    if outcome.port_holder:
        return (
            f"{outcome.port_holder}, and is not among what [legacy_takeover] stops: add it there, stop it, or change "
            f"proxy.port ({config.proxy.port})."
        )
    return ""
