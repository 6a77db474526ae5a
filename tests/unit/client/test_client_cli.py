"""The command against real servers: what it prints, sends and exits with."""

import json
import re
import struct
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner
from unipinrec_client.cli import app

from tests.support.triton_servers import BROKEN, INVALID, free_port


@pytest.fixture
def titles(tmp_path):
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps({"actions": ["watch"], "titles": {"42": "[Toy] Story (1995)"}}))
    return str(path)


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(*arguments, text=None):
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments, input=text)


def cells(line):
    return [cell.strip() for cell in line.replace("┃", "│").strip("│").split("│")]


def sent(server):
    (request,) = server.received
    return {name: content for name, (_, _, content) in request["inputs"].items()}


def test_a_table_shows_titles_probabilities_and_where_they_came_from(grpc_server, titles):
    result = run("recommend", "--user", "42", "--url", grpc_server.url, "--titles", titles)
    assert result.exit_code == 0, result.stderr
    lines = result.stdout.splitlines()
    assert cells(lines[1]) == ["rank", "item", "title", "score", "watch", "action 1", "retrieved by"]
    assert cells(lines[3]) == ["1", "42", "[Toy] Story (1995)", "0.7500", "0.500", "0.250", "3"]
    assert lines[5].startswith("user 42 · KV prefix · bundle bundle-1 · ")
    assert lines[5].endswith(" ms")


def test_titles_are_found_where_the_project_builds_them(grpc_server, tmp_path):
    built = tmp_path / "build/bundles/current"
    built.mkdir(parents=True)
    (built / "catalogue.json").write_text('{"actions": [], "titles": {"42": "Heat (1995)"}}')
    assert "Heat (1995)" in run("recommend", "--user", "42", "--url", grpc_server.url).stdout


def test_json_holds_the_same_over_http(http_server, titles):
    arguments = ("--protocol", "http", "--url", http_server.url, "--titles", titles, "--json")
    result = run("recommend", "--user", "42", *arguments)
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    assert printed.pop("latency_ms") > 0
    record = printed["users"][0]["exploration_record"]
    assert re.fullmatch(r"[0-9a-f]{16}", record.pop("request_id"))
    assert time.time() - 60 < record.pop("timestamp") <= time.time()
    assert record == {
        "user_id": "42",
        "surface": 0,
        "item_ids": [42],
        "utility_weights": [1.0, 0.5],
        "decision": {"policy": "0123456789ab", "arm": 7, "alpha": 0.25},
    }
    assert printed == {
        "users": [
            {
                "user_id": "42",
                "kv_source": "prefix",
                "bundle_id": "bundle-1",
                "utility_weights": [1.0, 0.5],
                "utility_source": "chosen",
                "exploration_record": record,
                "recommendations": [
                    {
                        "item_id": 42,
                        "title": "[Toy] Story (1995)",
                        "score": 0.75,
                        "action_probabilities": {"watch": 0.5, "action 1": 0.25},
                        "retrieved_by": 3,
                    }
                ],
            }
        ]
    }


def test_every_option_reaches_the_server(grpc_server):
    history = [
        {"item_id": 7, "actions": 5, "timestamp": 9, "surface": 1},
        {"item_id": 8, "actions": 1, "timestamp": 10},
    ]
    options = "--num-results 3 --exclude 1 --exclude 2 --request-time 50 --surface 4"
    weights = "--utility 1,0.5 --outcome 2,3"
    arguments = ("--url", grpc_server.url, "--history", "-", *options.split(), *weights.split())
    result = run("recommend", "--user", "42", *arguments, text=json.dumps(history))
    assert result.exit_code == 0, result.stderr
    assert sent(grpc_server) == {
        "USER_ID": b"\x02\x00\x00\x0042",
        "HISTORY_ITEM_IDS": struct.pack("<2q", 7, 8),
        "HISTORY_ACTIONS": struct.pack("<2q", 5, 1),
        "HISTORY_TIMESTAMPS": struct.pack("<2q", 9, 10),
        "HISTORY_SURFACES": struct.pack("<2q", 1, 0),
        "NUM_RESULTS": struct.pack("<q", 3),
        "REQUEST_TIME": struct.pack("<q", 50),
        "SURFACE": struct.pack("<q", 4),
        "UTILITY_WEIGHTS": struct.pack("<2f", 1.0, 0.5),
        "OUTCOME_WEIGHTS": struct.pack("<2f", 2.0, 3.0),
        "EXCLUDE_ITEM_IDS": struct.pack("<2q", 1, 2),
    }


def test_a_history_file_may_be_empty(grpc_server, tmp_path):
    (tmp_path / "history.json").write_text("[]")
    run("recommend", "--user", "42", "--url", grpc_server.url, "--history", "history.json")
    assert sent(grpc_server)["HISTORY_ITEM_IDS"] == struct.pack("<q", -1)


def test_several_users_travel_in_one_request(grpc_server):
    grpc_server.fail(INVALID, "stop here")
    run("recommend", "--user", "42", "--user", "7", "--url", grpc_server.url)
    assert sent(grpc_server)["USER_ID"] == b"\x02\x00\x00\x0042\x01\x00\x00\x007"


def assert_one_line(result, code, message):
    assert result.exit_code == code
    assert result.stdout == ""
    assert result.stderr.count("\n") == 1
    assert message in result.stderr


def test_a_refused_request_exits_2_with_the_servers_message(grpc_server):
    grpc_server.fail(INVALID, "NUM_RESULTS is 5000;\n allowed: [1] to 656")
    result = run("recommend", "--user", "1", "--url", grpc_server.url)
    assert_one_line(result, 2, "NUM_RESULTS is 5000; allowed: [1] to 656")


def test_a_failing_server_exits_1(grpc_server):
    grpc_server.fail(BROKEN, "a node failed")
    assert_one_line(run("recommend", "--user", "1", "--url", grpc_server.url), 1, "a node failed")


@pytest.mark.parametrize("command", [["recommend", "--user", "1"], ["health"]])
@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_a_port_without_a_listener_exits_3(command, protocol):
    result = run(*command, "--protocol", protocol, "--url", f"127.0.0.1:{free_port()}")
    assert_one_line(result, 3, "onnect")


def test_a_timeout_exits_3(http_server):
    http_server.sleeps_s = [1.0]
    arguments = ("--protocol", "http", "--url", http_server.url, "--timeout", "0.2")
    assert_one_line(run("recommend", "--user", "1", *arguments), 3, "no answer within 0.2")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--request-time", str(2**63)], "REQUEST_TIME is 9223372036854775808; allowed: integers"),
        (["--utility", "1,x"], "--utility is '1,x'; allowed: numbers separated by commas"),
        (["--history", "absent.json"], "absent.json"),
        (["--history", "-", "--user", "2"], "--history is given for 2 users; allowed: one --user"),
        (["--url", "ftp://localhost:8001"], "url is 'ftp://localhost:8001'; allowed: host:port"),
        (["--url", "127.0.0.1:99999"], "url is '127.0.0.1:99999'; allowed: host:port"),
        (["--url", "http://[::1", "--protocol", "http"], "url is 'http://[::1'; allowed: host:port"),
        (["--timeout", "inf"], "timeout_s is inf; allowed: more than 0, at most 31536000"),
        (["--timeout", "1e12", "--protocol", "http"], "timeout_s is 1000000000000.0; allowed: more than 0"),
        (["--user", "\udcff"], r"user_id is '\udcff'; allowed: text with a UTF-8 form"),
    ],
)
def test_arguments_without_a_meaning_exit_2(arguments, message):
    assert_one_line(run("recommend", "--user", "1", *arguments), 2, message)


@pytest.mark.parametrize(
    ("history", "message"),
    [
        ("{}", "--history holds a dict; allowed: a list of events"),
        (
            '[{"item_id": 1, "actions": 1, "timestamp": 1}, {"item": 2}]',
            "--history[1] is {'item': 2}; allowed: {item_id",
        ),
        ("[3]", "--history[0] is 3; allowed"),
        (
            '[{"item_id": "5", "actions": 1, "timestamp": 1}]',
            "HISTORY_ITEM_IDS is '5'; allowed: integers from",
        ),
        ("not json", "Expecting value"),
    ],
)
def test_a_malformed_history_exits_2(history, message):
    assert_one_line(run("recommend", "--user", "1", "--history", "-", text=history), 2, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "holds a list; allowed: an object"),
        ('{"titles": [1]}', "titles of names.json are [1]; allowed: an object of names by item id"),
        ('{"titles": {"1": 2}}', "titles of names.json are {'1': 2}; allowed: an object"),
        ('{"actions": 5}', "actions of names.json are 5; allowed: a list of names"),
    ],
)
def test_malformed_titles_exit_2(tmp_path, content, message):
    (tmp_path / "names.json").write_text(content)
    assert_one_line(run("recommend", "--user", "1", "--titles", "names.json"), 2, message)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_health_makes_a_recommendation(grpc_server, http_server, protocol):
    server = {"grpc": grpc_server, "http": http_server}[protocol]
    server.answer = lambda _, original=server.answer: original(b"5")
    result = run("health", "--protocol", protocol, "--url", server.url)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("healthy · bundle bundle-1 · ")
    assert len(server.received) == 1


def test_the_process_ends_quietly(http_server):
    command = [sys.executable, "-m", "unipinrec_client", "recommend", "--user", "42", "--json"]
    done = subprocess.run(
        [*command, "--protocol", "http", "--url", http_server.url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["users"][0]["recommendations"][0]["item_id"] == 42
