"""From ``python`` to the command line: of the single file, of ``python -m rollbridge``, of this path itself.

Everything in this file must parse and run on Python 2.7 and 3.6, which have to be told what they lack;
hence the type comments. The single file enters through ``run`` too (see build_zipapp.py).
"""

import os
import sys

OLDEST = (3, 11)


def run():
    # type: () -> None
    """Run the command line and exit with its code."""
    if sys.version_info < OLDEST:
        found = ".".join(str(part) for part in sys.version_info[:3])
        sys.stderr.write(
            "rollbridge: needs Python %d.%d or newer, and this is Python %s (%s).\n"
            % (OLDEST + (found, sys.executable))
        )
        sys.exit(2)
    path = sys.path[0]
    stamp = file_stamp(path)
    try:
        run_main()
    except Exception:
        # Python reads each module from the file when it is first imported, and the positions in it from its beginning.
        if stamp is None or file_stamp(path) == stamp:
            raise
        sys.stderr.write("rollbridge: %s was replaced while this command ran. Run it again.\n" % path)
        sys.exit(1)


def run_main():
    # type: () -> None
    from rollbridge.bundle import MissingPsutil, offer_bundled_psutil
    from rollbridge.cli.main import main

    offer_bundled_psutil()
    try:
        sys.exit(main())
    except MissingPsutil as error:
        sys.stderr.write("rollbridge: %s\n" % error)
        sys.exit(1)


def file_stamp(path):
    # type: (str) -> tuple[int, int, int] | None
    """What changes when the single file at ``path`` is replaced or written to; None when that is no file."""
    if not os.path.isfile(path):
        return None
    status = os.stat(path)
    return status.st_ino, status.st_mtime_ns, status.st_size


def stand_in_package():
    # type: () -> None
    """Make the package of this very file importable, when it was started by its path (see runtime.self_command)."""
    from importlib.util import module_from_spec, spec_from_file_location

    package = os.path.dirname(os.path.abspath(__file__))
    spec = spec_from_file_location(
        "rollbridge", os.path.join(package, "__init__.py"), submodule_search_locations=[package]
    )
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules["rollbridge"] = module
    spec.loader.exec_module(module)
    # The package's own directory must not offer its modules as top-level ones; the directory around it is where the
    # dependencies of an installed package are, behind everything else so that it shadows nothing.
    sys.path[:] = [path for path in sys.path if os.path.abspath(path) != package]
    sys.path.append(os.path.dirname(package))


if __name__ == "__main__":
    if not __package__ and sys.version_info >= OLDEST:
        stand_in_package()
    run()
