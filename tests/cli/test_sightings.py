from __future__ import annotations

import pytest

from rollbridge.cli.sightings import Sighting, find_app, look
from rollbridge.cli.starter import application_name, starter_config
from rollbridge.config.model import Policy
from rollbridge.config.parse import parse_config

BIND = "{{proxy.upstream_host}}:{{port}}"
MANAGE = "import os\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'shop.settings.production')\n"


def web_command(files: dict[str, str], programs: dict[str, str] | None = None) -> object:
    found = look(files, programs or {}).web
    assert found is not None
    return found.command


def test_django_is_run_by_gunicorn_with_the_project_that_manage_py_names() -> None:
    assert web_command({"manage.py": MANAGE}) == ["gunicorn", "--bind", BIND, "shop.wsgi:application"]


def test_a_program_of_the_virtual_environment_is_preferred() -> None:
    command = web_command({"manage.py": MANAGE}, {"gunicorn": "{{release_path}}/.venv/bin/gunicorn"})
    assert command == ["{{release_path}}/.venv/bin/gunicorn", "--bind", BIND, "shop.wsgi:application"]


@pytest.mark.parametrize(
    ("source", "app"),
    [
        ("from flask import Flask\napp = Flask(__name__)", ("app", False)),
        ("import fastapi\napp: object = fastapi.FastAPI(title='x')", ("app", True)),
        ("application = get_wsgi_application()", ("application", False)),
        ("application = get_asgi_application()", ("application", True)),
        ("def app(environ, start_response): ...", ("app", False)),
        ("async def app(scope, receive, send): ...", ("app", True)),
        ("app = 3", None),
        ("def app(): ...", None),
        ("client = Flask(__name__)", None),
        ("if True:\n    app = Flask(__name__)", None),
        ("this is no Python", None),
        ("", None),
        ("x = '\0'", None),
    ],
)
def test_an_app_is_found_at_the_top_of_a_python_file(source: str, app: tuple[str, bool] | None) -> None:
    assert find_app(source) == app


def test_an_asgi_app_is_run_by_uvicorn_and_a_wsgi_app_by_gunicorn() -> None:
    assert web_command({"main.py": "app = FastAPI()"})[:1] == ["uvicorn"]  # type: ignore[index]
    assert web_command({"app.py": "app = Flask('x')"}) == ["gunicorn", "--bind", BIND, "app:app"]


def test_a_procfile_names_every_process_and_comes_before_all_else() -> None:
    procfile = "# comment\nweb: bin/serve -p $PORT\n\nworker: bin/work {{x}}\nrelease: bin/migrate\nbad"
    sighting = look({"Procfile": procfile, "manage.py": MANAGE}, {})
    assert sighting.web is not None
    assert sighting.web.command == "bin/serve -p $PORT"
    assert sighting.web.env == {"PORT": "{{port}}", "HOST": "{{proxy.upstream_host}}"}
    assert [(one.id, one.command) for one in sighting.others] == [("worker", "bin/work {{{{x}}")]
    assert any("bin/migrate" in note for note in sighting.notes)
    assert "manage.py is there as well; Procfile was followed." in sighting.notes


def test_a_procfile_without_web_leaves_that_to_the_other_files() -> None:
    sighting = look({"Procfile": "worker: bin/work", "config.ru": ""}, {})
    assert sighting.web is not None
    assert sighting.web.why == "config.ru"
    assert [one.id for one in sighting.others] == ["worker"]


def test_rack_is_run_by_puma_when_the_gemfile_has_it_and_sidekiq_beside_it() -> None:
    sighting = look({"config.ru": "", "Gemfile": "gem 'puma', '~> 6'\ngem \"sidekiq\""}, {})
    assert sighting.web is not None
    assert sighting.web.command == ["bundle", "exec", "puma", "--bind", f"tcp://{BIND}"]
    assert [(one.id, one.quiet_command) for one in sighting.others] == [("sidekiq", "kill -TSTP $ROLLBRIDGE_PID")]
    assert web_command({"config.ru": "", "Gemfile": "# gem 'puma'"})[2] == "rackup"  # type: ignore[index]


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ('{"scripts": {"start": "node --inspect=0 dist/a.js"}}', ["node", "--inspect=0", "dist/a.js"]),
        ('{"scripts": {"start": "next start -p $PORT"}}', ["npm", "start"]),
        ('{"main": "index.js"}', ["node", "index.js"]),
    ],
)  # fmt: skip
def test_node_is_started_without_npm_where_that_means_the_same(package: str, command: list[str]) -> None:
    assert web_command({"package.json": package}) == command


@pytest.mark.parametrize("package", ["{}", "[]", "nonsense", '{"scripts": 3}', "", "[" * 100_000])
def test_a_package_that_says_nothing_is_no_application(package: str) -> None:
    assert look({"package.json": package}, {}).web is None


def test_a_health_route_of_the_app_is_the_health_path() -> None:
    assert look({"app.py": "app = Flask('x')\n@app.get('/healthz')\ndef h(): ..."}, {}).health_path == "/healthz"
    assert look({"app.py": "app = Flask('x')"}, {}).health_path == "/"


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"Procfile": 'web: serve "$PORT" \\ \x7f {{port}} \'x\'\nworker: w\na_b: m\nworker: again\nrelease: "\x1b"'},
        {"manage.py": MANAGE},
        {"config.ru": "", "Gemfile": "gem 'sidekiq'"},
        {"package.json": '{"main": "{{x}}\\u0000é.js", "scripts": {}}'},
        {"main.py": "app = FastAPI()"},
    ],
)  # fmt: skip
def test_whatever_is_found_gives_a_config_that_validates(files: dict[str, str]) -> None:
    sighting = look({name: text.replace("\0", "") for name, text in files.items()}, {})
    text = starter_config("shop", sighting)
    config = parse_config(text.encode(), "/srv/shop/rollbridge.toml", {}, uid=1000)
    assert [p.id for p in config.processes.values() if p.policy is Policy.PROXIED] == ["web"]
    assert {one.id for one in sighting.others} == set(config.processes) - {"web"}
    assert max(len(line) for line in text.splitlines() if not line.startswith("command")) <= 120


def test_commented_settings_are_true_when_the_comment_is_taken_away() -> None:
    text = starter_config("shop", Sighting(None))
    bare = "\n".join(
        line[2:] if line.startswith("# ") and (" = " in line or line.startswith("# [")) else line
        for line in text.splitlines()
    )
    config = parse_config(bare.encode(), "/srv/shop/rollbridge.toml", {}, uid=1000)
    assert set(config.processes) == {"web", "worker"}


@pytest.mark.parametrize(
    ("directory", "name"), [("shop", "shop"), ("my shop.d", "my-shop-d"), ("", "app"), ("--", "app"), ("ö" * 9, "app")]
)
def test_the_directory_gives_the_application_its_name(directory: str, name: str) -> None:
    assert application_name(directory) == name
