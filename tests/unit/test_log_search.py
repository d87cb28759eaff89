"""One request's lines across hosts and rotated files; what is wrong with a program's lines."""

import gzip
import json

import pytest
from ansible.module_utils.greenroom import log_search


def line(host, program, data=None, text=None, time="2026-11-20T10:00:00+00:00", severity="info"):
    about = {"time": time, "host": host, "program": program, "severity": severity}
    return json.dumps({**about, **({"data": data} if data is not None else {"text": text})}) + "\n"


@pytest.fixture
def folder(tmp_path):
    gateway = [
        line("g", "gateway-access", {"time": "2026-11-20T10:00:02Z", "request_id": "abc-1", "status": 200, "path": "/x", "method": "GET"}),
        line("g", "gateway-access", {"time": "2026-11-20T10:00:03Z", "request_id": "abc-12", "status": 502, "path": "/y", "method": "GET"}),
        line("g", "gateway-error", text="upstream failed, request_id: abc-1, x", severity="error"),
    ]
    (tmp_path / "g.jsonl").write_text("".join(gateway))
    (tmp_path / "a.jsonl").write_text(
        line("a", "x-web", {"timestamp": "2026-11-20T10:00:01Z", "request_id": "abc-1", "level": "info", "event": "request", "path": "/x"})
        + line("a", "x-web", {"timestamp": "2026-11-20T10:00:01Z", "level": "error", "event": "failed abc-1"})
        + '{"time": "cut'
    )
    with gzip.open(tmp_path / "w.jsonl-20261119.gz", "wt") as file:
        file.write(line("w", "x-worker", {"timestamp": "2026-11-20T10:00:05Z", "request_id": "abc-1", "level": "info", "event": "sent"}))
    return tmp_path


def test_one_request_across_gateway_service_and_worker_in_order(folder, capsys):
    assert log_search.main(["--dir", str(folder), "abc-1"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [one.split()[2].rstrip(":") for one in shown] == ["gateway-error", "x-web", "gateway-access", "x-worker"]
    assert "event=sent" in shown[-1]


def test_errors_of_every_request(folder):
    found = log_search.search(folder, None, 7, errors=True)
    assert sorted(one["program"] for one in found) == ["gateway-access", "gateway-error", "x-web"]


def test_nothing_found_and_no_folder_are_told_apart(folder, capsys):
    assert log_search.main(["--dir", str(folder), "abc"]) == 1
    assert log_search.main(["--dir", str(folder / "none"), "abc"]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_an_audit_names_the_first_bad_line(folder):
    found = log_search.audit(folder, "x-", 0, 7, "info")
    assert (found["lines"], found["not_json"], found["errors"], found["requests"], found["without_request_id"]) == (3, 0, 1, 1, 0)
    with open(folder / "a.jsonl", "a") as file:
        file.write("\n" + line("a", "x-web", text="Traceback (most recent call last):"))
        file.write(line("a", "x-web", {"level": "debug", "path": "/x"}))
    found = log_search.audit(folder, "x-", 0, 7, "info")
    assert (found["not_json"], found["below_level"], found["without_request_id"]) == (1, 1, 1)
    assert found["first_bad"].startswith("a x-web")
    assert log_search.audit(folder, "x-", 4e9, 7, "info")["lines"] == 0


def test_without_a_question_there_is_no_answer(folder):
    with pytest.raises(SystemExit):
        log_search.main(["--dir", str(folder)])
