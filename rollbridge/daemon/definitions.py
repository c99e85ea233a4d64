"""What defines the processes that an earlier daemon left: the config as it is now, and the release they belong to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rollbridge.config.launch import TemplateError
from rollbridge.config.model import Config, Policy
from rollbridge.daemon.recorded import Record, RecordedRelease, RecordedState
from rollbridge.process.identity import read_boot_id
from rollbridge.process.managed import ProcessSpec
from rollbridge.process.recognition import is_living
from rollbridge.release.release import Release
from rollbridge.release.starting import release_specs, shared_specs
from rollbridge.release.states import ReleaseState


@dataclass(frozen=True, slots=True)
class _Grounds:
    shared_ports: Mapping[str, int]
    environ: Mapping[str, str]


def undefined_processes(config: Config, environ: Mapping[str, str], recorded: RecordedState) -> list[str]:
    """Return the recorded processes that live and that ``config`` does not define; nothing is touched.

    Adoption would keep account of them as orphans, and refuse to start without the active release's proxied one.
    """
    if recorded.boot_id != read_boot_id():
        return []
    grounds = _Grounds(recorded.shared_ports, environ)
    living: list[Record] = [record for record in (*recorded.services, *recorded.singletons) if is_living(record)]
    specs: dict[str, ProcessSpec] = {}
    releases = [rebuilt(one) for one in recorded.releases]
    for one, release in zip(recorded.releases, releases, strict=True):
        if release.is_alive:
            living += [record for record in one.processes if is_living(record)]
            specs |= _of_release(config, grounds, release)
    template = template_of(releases)
    if template is not None:
        specs |= _shared(config, grounds, template)
    return [name for record in living if (name := str(record.get("id"))) not in specs]


def _of_release(config: Config, grounds: _Grounds, release: Release) -> dict[str, ProcessSpec]:
    return definable(config, lambda part: release_specs(grounds, part, release), _ignore)


def _shared(config: Config, grounds: _Grounds, template: Release) -> dict[str, ProcessSpec]:
    policies = (Policy.SERVICE, Policy.SINGLETON)
    return definable(
        config, lambda part: [spec for one in policies for spec in shared_specs(grounds, part, template, one)], _ignore
    )


def _ignore(message: str, data: dict[str, object]) -> None:
    """Not recorded: whoever asks tells what is missing."""


def template_of(releases: Sequence[Release]) -> Release | None:
    """Return the release that defines services and singletons.

    Services outlive the releases: after a stop, the last one defines them as it did.
    """
    active = [release for release in releases if release.state is ReleaseState.ACTIVE]
    alive = [release for release in releases if release.is_alive]
    return next(iter([*active, *alive, *releases[-1:]]), None)


def rebuilt(one: RecordedRelease) -> Release:
    """Return the release that ``one`` was, without its processes."""
    return Release(
        key=one.key,
        release_id=one.identity.release_id,
        release_path=one.identity.release_path,
        revision=one.identity.revision,
        upstream_host=one.upstream_host,
        ports=one.ports,
        state=one.state,
        activated_at=one.activated_at,
        drain_started_at=one.drain_started_at,
        stopped_at=one.stopped_at,
    )


def definable(
    whole: Config, build: Callable[[Config], list[ProcessSpec]], record: Callable[[str, dict[str, object]], None]
) -> dict[str, ProcessSpec]:
    """Return what ``build`` makes of each process of the config by itself, in their order, by instance id.

    The config may have changed since: one process that cannot be defined for a release that knows nothing of it must
    not take the others with it.
    """
    specs: list[ProcessSpec] = []
    for process in whole.processes.values():
        try:
            specs += build(replace(whole, processes={process.id: process}))
        except TemplateError as error:
            record("definition not usable", {"error": str(error)})
    order = (Policy.SERVICE, Policy.COMPANION, Policy.PROXIED, Policy.SINGLETON)
    return {spec.instance_id: spec for spec in sorted(specs, key=lambda spec: order.index(spec.process.policy))}
