from __future__ import annotations

import pytest

from tests.config.reading import WEB, issue_of, issues_of, parse

PROXIED = '[processes.web]\npolicy = "proxied"\ncommand = "serve"\n'


def process(process_id: str, settings: str) -> str:
    return f'[processes.{process_id}]\ncommand = "run"\n{settings}\n'


@pytest.mark.parametrize("text", ["", "[processes]\n", "processes = {}\n"])
def test_config_without_processes_is_refused_with_an_example(text: str) -> None:
    issue = issue_of(text)
    assert (issue.where, issue.message) == ("processes", "no process is defined")
    assert 'policy = "proxied"' in issue.fix


def test_exactly_one_process_is_proxied() -> None:
    issue = issue_of(process("worker", ""))
    assert (issue.where, issue.line) == ("processes", 1)
    assert "no process is proxied" in issue.message
    assert "[processes.worker]" in issue.fix
    issue = issue_of(WEB + process("api", 'policy = "proxied"\nport = "19000-19009"'))
    assert (issue.where, issue.line) == ("processes.api.policy", 7)
    assert issue.message == "web is already proxied, and there can be only one"


def test_mistyped_policy_is_not_also_told_as_a_missing_one() -> None:
    assert issue_of(WEB.replace("proxied", "proxid")).where == "processes.web.policy"


def test_proxied_process_has_a_port() -> None:
    issue = issue_of(PROXIED)
    assert (issue.where, issue.message, issue.line) == ("processes.web.port", "the proxied process has no port", 1)
    assert "port = { from = 18182, to = 18299 }" in issue.fix


def test_wrong_port_is_not_also_told_as_a_missing_one() -> None:
    assert issue_of(PROXIED + "port = true").message == "true is neither a port nor a range of ports"


@pytest.mark.parametrize("process_id", ["-a", "_a", "a.b", "a b", "é", "", "x" * 65])
def test_process_id_is_fit_for_file_names(process_id: str) -> None:
    issue = issue_of(f'{WEB}[processes."{process_id}"]\ncommand = "x"\n')
    assert "cannot be the id of a process" in issue.message
    assert issue.line == 5


@pytest.mark.parametrize("process_id", ["a", "9", "a-b_c", "A", "x" * 64])
def test_usual_process_ids_are_taken(process_id: str) -> None:
    assert process_id in parse(WEB + process(process_id, "")).processes


def test_process_that_is_no_table_is_told() -> None:
    issue = issue_of(f'[processes]\nworker = "work"\n{WEB}')
    assert (issue.where, issue.message, issue.line) == ("processes.worker", '"work" is not a table', 2)


def test_processes_that_are_no_table_are_told() -> None:
    assert issue_of("processes = 1\n").message == "1 is not a table"


def test_processes_keep_the_order_of_the_file() -> None:
    assert list(parse(process("z", "") + WEB + process("a", "")).processes) == ["z", "web", "a"]


@pytest.mark.parametrize("policy", ["companion", "singleton"])
@pytest.mark.parametrize("strategy", ["handoff", "persistent"])
def test_deploy_strategy_is_for_services(policy: str, strategy: str) -> None:
    issue = issue_of(WEB + process("a", f'policy = "{policy}"\ndeploy_strategy = "{strategy}"\nport = "7000-7009"'))
    assert issue.where == "processes.a.deploy_strategy"
    assert issue.message == f"deploy_strategy is for services; this is a {policy}"


@pytest.mark.parametrize("port", ["port = 7331", 'port = "7331"', "port = { from = 7331, to = 7331 }"])
def test_handoff_needs_more_than_one_port(port: str) -> None:
    issue = issue_of(WEB + process("a", f'policy = "service"\ndeploy_strategy = "handoff"\n{port}'))
    assert issue.message == "a handoff service needs a port for each release, and 7331 is only one"
    assert "port = { from = 7331, to = 7340 }" in issue.fix


def test_handoff_needs_a_port() -> None:
    issue = issue_of(WEB + process("a", 'policy = "service"\ndeploy_strategy = "handoff"'))
    assert issue.where == "processes.a.deploy_strategy"


@pytest.mark.parametrize("policy", ["singleton", "service"])
def test_singletons_and_services_run_once(policy: str) -> None:
    issue = issue_of(WEB + process("a", f'policy = "{policy}"\nreplicas = 2'))
    assert (issue.where, issue.message) == ("processes.a.replicas", f"a {policy} runs once, not 2 times")


def test_companion_with_a_port_runs_once() -> None:
    issue = issue_of(WEB + process("a", 'replicas = 2\nport = "7000-7009"'))
    assert issue.where == "processes.a.replicas"


@pytest.mark.parametrize(("last", "is_wide_enough"), [(7002, False), (7003, True)])
def test_replicas_of_the_proxied_process_need_a_range_twice_as_large(last: int, is_wide_enough: bool) -> None:
    issues = issues_of(f"{PROXIED}replicas = 2\nport = {{ from = 7000, to = {last} }}\n")
    assert not issues if is_wide_enough else "fewer than twice the 2 replicas" in issues[0].message
    if not is_wide_enough:
        assert "port = { from = 7000, to = 7003 }" in issues[0].fix


def test_widened_range_ends_at_the_last_port() -> None:
    issue = issue_of(f"{PROXIED}replicas = 2\nport = {{ from = 65533, to = 65535 }}\n")
    assert "{ from = 65532, to = 65535 }" in issue.fix


@pytest.mark.parametrize(("settings", "count"), [("", 1), (', drain_timeout = "0s"', 1), (', drain_timeout = "1s"', 0)])
def test_drain_command_needs_time(settings: str, count: int) -> None:
    issues = issues_of(WEB + process("a", f'lifecycle = {{ drain_command = "x"{settings} }}'))
    assert [issue.where for issue in issues] == ["processes.a.lifecycle.drain_command"] * count


@pytest.mark.parametrize(("name", "count"), [("SIGTERM", 0), ("SIGINT", 1)])
def test_stop_command_excludes_another_signal(name: str, count: int) -> None:
    issues = issues_of(WEB + process("a", f'stop_signal = "{name}"\nlifecycle = {{ stop_command = "x" }}'))
    assert [issue.where for issue in issues] == ["processes.a.stop_signal"] * count


@pytest.mark.parametrize("policy", ["singleton", "service"])
def test_only_companions_drain_without_blocking(policy: str) -> None:
    issue = issue_of(WEB + process("a", f'policy = "{policy}"\nnon_blocking_drain = true'))
    assert issue.where == "processes.a.non_blocking_drain"
    assert issues_of(WEB + process("a", f'policy = "{policy}"\nnon_blocking_drain = false')) == []


def test_the_proxied_process_does_not_drain_without_blocking() -> None:
    assert issue_of(f"{WEB}non_blocking_drain = true").where == "processes.web.non_blocking_drain"


@pytest.mark.parametrize(("warn", "count"), [("1MiB", 0), ("2MiB", 1), ("3MiB", 1)])
def test_warning_comes_before_the_limit(warn: str, count: int) -> None:
    issues = issues_of(WEB + process("a", f'memory = {{ limit = "2MiB", warn = "{warn}" }}'))
    assert [issue.where for issue in issues] == ["processes.a.memory.warn"] * count


@pytest.mark.parametrize("port", ["8182", '"8100-8200"', '"8182-8190"', '"8100-8182"'])
def test_port_of_the_proxy_is_not_one_of_a_process(port: str) -> None:
    issue = issue_of(f"{PROXIED}port = {port}\n")
    assert issue.where == "processes.web.port"
    assert "proxy.port, 8182, where the proxy itself listens" in issue.message


def test_wrong_port_of_the_proxy_is_told_once() -> None:
    assert issue_of(f"[proxy]\nport = 0\n{PROXIED}port = 8182\n").where == "proxy.port"


def test_fixed_port_belongs_to_one_process() -> None:
    issue = issue_of(
        WEB + process("a", 'policy = "service"\nport = 7331') + process("b", 'policy = "service"\nport = 7331')
    )
    assert (issue.where, issue.message, issue.line) == ("processes.b.port", "port 7331 is the port of a too", 12)


def test_fixed_port_is_not_in_the_range_of_another() -> None:
    issue = issue_of(WEB + process("a", 'policy = "service"\nport = 18200'))
    assert issue.where == "processes.web.port"
    assert issue.message == "the range 18182-18299 has in it port 18200, the port of a"


def test_ranges_may_overlap_as_ports_are_reserved_one_by_one() -> None:
    assert issues_of(WEB + process("a", 'port = "18200-18400"')) == []


def test_two_processes_cannot_have_one_port_variable() -> None:
    two = process("a-b", "port = 7001") + process("A_b", "port = 7002")
    issue = issue_of(WEB + two)
    assert (issue.where, issue.line) == ("processes.A_b", 8)
    assert "ROLLBRIDGE_A_B_PORT" in issue.message
    assert issues_of(WEB + process("a-b", "port = 7001") + process("a_b", "")) == []
