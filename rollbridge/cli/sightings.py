"""What an application's directory tells about how it is run: from the text of its files to processes; pure."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

ADDRESS: Final = "{{proxy.upstream_host}}"
PORT: Final = "{{port}}"

# Looked into for an app, in this order, when nothing else says how the application is run.
PYTHON_FILES: Final = ("asgi.py", "wsgi.py", "app.py", "main.py", "application.py", "server.py")
READ_FILES: Final = ("Procfile", "manage.py", "config.ru", "package.json", "Gemfile", *PYTHON_FILES)
VIRTUAL_ENVIRONMENTS: Final = (".venv", "venv")

_PROCFILE_LINE = re.compile(r"([A-Za-z0-9_-]+):\s*(.+)")
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SETTINGS = re.compile(r"""DJANGO_SETTINGS_MODULE["']\s*,\s*["']([A-Za-z_][A-Za-z0-9_.]*)""")
_HEALTH_ROUTE = re.compile(r"""["'](/(?:ping|up|health|healthz|_health|livez|readyz))/?["']""")
_PLAIN_NODE = re.compile(r"node(?: [A-Za-z0-9_./=-]+)+")
_ASGI_CLASSES: Final = ("FastAPI", "Starlette", "Quart", "Litestar", "BlackSheep", "get_asgi_application")
_WSGI_CLASSES: Final = ("Flask", "Bottle", "Pyramid", "make_wsgi_app", "create_app", "get_wsgi_application")
_APP_NAMES: Final = ("app", "application")


@dataclass(frozen=True, slots=True)
class Found:
    """One process: ``command`` is a string for the shell or the arguments; ``why`` names the file."""

    id: str
    command: str | Sequence[str]
    why: str
    env: Mapping[str, str] = field(default_factory=dict)
    quiet_command: str = ""


@dataclass(frozen=True, slots=True)
class Sighting:
    """What was found: the web process (None: nothing that is known), the others, what is to be said besides."""

    web: Found | None
    others: tuple[Found, ...] = ()
    health_path: str = "/"
    notes: tuple[str, ...] = ()


def look(files: Mapping[str, str], programs: Mapping[str, str]) -> Sighting:
    """Return what ``files`` (those of READ_FILES that are there, by name) tell.

    ``programs`` has the path of each program that a virtual environment of the directory holds, by name.
    """
    notes: list[str] = []
    procfile_web, others = _procfile(files.get("Procfile", ""), notes)
    seen = [procfile_web, _django(files, programs), _rack(files), _node(files), _python_app(files, programs)]
    candidates = [found for found in seen if found is not None]
    if not others and candidates and candidates[0].why == "config.ru":
        others = _sidekiq(files)
    notes += [f"{other.why} is there as well; {candidates[0].why} was followed." for other in candidates[1:]]
    return Sighting(candidates[0] if candidates else None, tuple(others), _health_path(files), tuple(notes))


def _procfile(text: str, notes: list[str]) -> tuple[Found | None, list[Found]]:
    web: Found | None = None
    others: list[Found] = []
    for line in text.splitlines():
        match = _PROCFILE_LINE.fullmatch(line.strip())
        if not match:
            continue
        name, command = match[1], match[2].strip().replace("{{", "{{{{")
        if name == "web":
            web = Found("web", command, "Procfile", {"PORT": PORT, "HOST": ADDRESS})
        elif name == "release":
            notes.append(f"Procfile has a release step; run it before `rollbridge deploy`: {match[2].strip()}")
        elif _ID.fullmatch(name) and name not in [other.id for other in others]:
            others.append(Found(name, command, "Procfile"))
        else:
            notes.append(f"Procfile has a process {name!r} that was left out: choose another name for it.")
    return web, others


def _django(files: Mapping[str, str], programs: Mapping[str, str]) -> Found | None:
    match = _SETTINGS.search(files.get("manage.py", ""))
    if not match:
        return None
    project = match[1].partition(".")[0]
    return _gunicorn(f"{project}.wsgi:application", "manage.py", programs)


def _rack(files: Mapping[str, str]) -> Found | None:
    if "config.ru" not in files:
        return None
    if _has_gem(files, "puma"):
        return Found("web", ["bundle", "exec", "puma", "--bind", f"tcp://{ADDRESS}:{PORT}"], "config.ru")
    return Found("web", ["bundle", "exec", "rackup", "--host", ADDRESS, "--port", PORT], "config.ru")


def _sidekiq(files: Mapping[str, str]) -> list[Found]:
    if not _has_gem(files, "sidekiq"):
        return []
    # TSTP: takes no new job. It reaches Sidekiq itself, since the command is run without a shell.
    return [Found("sidekiq", ["bundle", "exec", "sidekiq"], "Gemfile", {}, "kill -TSTP $ROLLBRIDGE_PID")]


def _has_gem(files: Mapping[str, str], name: str) -> bool:
    return bool(re.search(rf"""^\s*gem\s*\(?\s*["']{name}["']""", files.get("Gemfile", ""), re.MULTILINE))


def _node(files: Mapping[str, str]) -> Found | None:
    try:
        package = json.loads(files.get("package.json", "null"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(package, dict):
        return None
    scripts = package.get("scripts")
    start = scripts.get("start") if isinstance(scripts, dict) else None
    env = {"PORT": PORT, "HOST": ADDRESS, "NODE_ENV": "production"}
    if isinstance(start, str) and start.strip():
        # Without npm in between where that means the same: one process less, and signals arrive at once.
        is_plain = _PLAIN_NODE.fullmatch(start.strip())
        return Found("web", start.split() if is_plain else ["npm", "start"], "package.json", env)
    main = package.get("main")
    if isinstance(main, str) and main and main.isprintable():
        return Found("web", ["node", main.replace("{{", "{{{{")], "package.json", env)
    return None


def _python_app(files: Mapping[str, str], programs: Mapping[str, str]) -> Found | None:
    for name in PYTHON_FILES:
        if name not in files:
            continue
        app = find_app(files[name])
        if app:
            variable, is_asgi = app
            target = f"{name[: -len('.py')]}:{variable}"
            return _uvicorn(target, name, programs) if is_asgi else _gunicorn(target, name, programs)
    return None


def _gunicorn(target: str, why: str, programs: Mapping[str, str]) -> Found:
    bind = f"{ADDRESS}:{PORT}"
    return Found("web", [programs.get("gunicorn", "gunicorn"), "--bind", bind, target], why)


def _uvicorn(target: str, why: str, programs: Mapping[str, str]) -> Found:
    program = programs.get("uvicorn", "uvicorn")
    return Found("web", [program, "--host", ADDRESS, "--port", PORT, target], why)


def find_app(source: str) -> tuple[str, bool] | None:
    """Return the name of the app that a Python file defines at its top level, and whether it is ASGI; None without."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return None
    for statement in tree.body:
        name, is_asgi = _app_of(statement)
        if name in _APP_NAMES and is_asgi is not None:
            return name, is_asgi
    return None


def _app_of(statement: ast.stmt) -> tuple[str, bool | None]:
    if isinstance(statement, ast.AsyncFunctionDef):
        return statement.name, True if len(statement.args.args) == 3 else None
    if isinstance(statement, ast.FunctionDef):
        return statement.name, False if len(statement.args.args) == 2 else None
    if isinstance(statement, ast.AnnAssign):
        return _name(statement.target), _is_asgi(statement.value)
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
        return _name(statement.targets[0]), _is_asgi(statement.value)
    return "", None


def _name(target: ast.expr) -> str:
    return target.id if isinstance(target, ast.Name) else ""


def _is_asgi(value: ast.expr | None) -> bool | None:
    """Return whether what is called makes an ASGI app, None when it is not known to make an app at all."""
    called = value.func if isinstance(value, ast.Call) else None
    name = called.attr if isinstance(called, ast.Attribute) else called.id if isinstance(called, ast.Name) else ""
    if name in _ASGI_CLASSES:
        return True
    return False if name in _WSGI_CLASSES else None


def _health_path(files: Mapping[str, str]) -> str:
    for name, text in files.items():
        match = _HEALTH_ROUTE.search(text) if name.endswith(".py") else None
        if match:
            return match[1]
    return "/"
