"""Profiles, figures, verdicts, samplers, baselines and plots of load tests, on made-up data."""

import json
import os
import struct
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import (
    load_baseline,
    load_judge,
    load_judgement,
    load_profile,
    load_run,
    load_sampler,
    load_samples,
)

THRESHOLDS = {"p95_ms": 500, "error_rate_percent": 0.1, "throughput_rps": 1000, "cpu_percent": 70, "memory_percent": 80}
PROFILE = {
    "file": "locustfile.py", "users": 100, "spawn_rate": 10, "warm_up_s": 15, "duration_s": 600, "think_time_s": 0, "pace_rps": 1100,
    "processes": 2, "request_timeout_s": 10, "baseline_margin_percent": 20,
}  # fmt: skip
HOST = {"samples": 600, "cpu_mean": 40.0, "cpu_p95": 50.0, "cpu_max": 90.0, "memory_max": 55.0, "connections_max": 120}


# --- the profile ------------------------------------------------------------------------------------------------------


def wrong(thresholds=None, rate_limit=None, **profile):
    return [key for key, _text, _fix in load_profile.problems(PROFILE | profile, THRESHOLDS | (thresholds or {}), rate_limit)]


def test_the_runbooks_profile_is_plausible_and_says_what_it_hides():
    assert wrong() == []
    (note,) = load_profile.notes(PROFILE, THRESHOLDS)
    assert "mean latency below 100 ms" in note


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"users": 10, "think_time_s": 1, "pace_rps": None}, "users"),  # 003 L1070: at most 10 requests/s can never be 1000
        ({"pace_rps": 900}, "pace_rps"),
        ({"warm_up_s": 5}, "warm_up_s"),
        ({"users": 1}, "processes"),
    ],
)
def test_a_profile_that_cannot_prove_its_thresholds_is_refused(change, key):
    assert wrong(**change) == [key]


def test_the_gateways_limit_for_one_client_is_respected():
    assert wrong(rate_limit={"requests_per_s": 2000}) == []
    assert wrong(rate_limit={"requests_per_s": 1050}) == ["pace_rps"]
    assert wrong(rate_limit={"requests_per_s": 2000}, pace_rps=None) == ["pace_rps"]


def test_too_few_requests_for_the_error_limit_are_refused():
    assert wrong({"throughput_rps": 50, "error_rate_percent": 0.01}, duration_s=30) == ["duration_s"]
    assert load_profile.samples_needed(THRESHOLDS) == 1000
    assert load_profile.samples_needed(THRESHOLDS | {"error_rate_percent": 0}) == 1000


# --- figures ----------------------------------------------------------------------------------------------------------


def write_process(folder, pid, samples, *, seconds=10, start=1000.0, ended=True, cpu=0.3, lag=2.0, users=50):
    (folder / f"samples-{pid}.bin").write_bytes(b"".join(struct.pack("<dfBH", *one) for one in samples))
    lines = [{"locust": "2.47.0", "at": start}]
    lines += [{"at": start + at + 1, "cpu": cpu, "lags_ms": [lag] * 20, "users": users, "requests": 1} for at in range(seconds)]
    if ended:
        lines.append({"at": start + seconds, "cpu": cpu, "lags_ms": [], "users": 0, "requests": len(samples), "failed": 0,
                      "user_errors": 0, "ended": True, "names": ["a", "b"], "failures": {"HTTP 500": 1}})  # fmt: skip
    (folder / f"seconds-{pid}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_the_warm_up_is_left_out_and_percentiles_are_those_of_raw_samples(tmp_path):
    slow_start = [(1000.0 + at / 100, 900.0, 0, 0) for at in range(100)]  # the first second: slow
    steady = [(1002.0 + at / 100, float(at % 100), 0, 1) for at in range(800)]
    write_process(tmp_path, 1, slow_start + steady)
    found = load_samples.figures(load_samples.read_processes(tmp_path), {"warm_up_s": 2, "duration_s": 8})
    assert found["samples"] == 800 and found["names"] == {"b": {"samples": 800, "failed": 0, "p95_ms": 94.0}}
    assert (found["p50_ms"], found["p95_ms"], found["max_ms"]) == (49.0, 94.0, 99.0)
    assert found["series"][0]["p95_ms"] is None or found["series"][1]["p95_ms"] == 900.0
    assert found["generator"][0] == {
        "pid": "1", "version": "2.47.0", "ended": True, "seconds": 10, "cpu_percent": 30.0, "lag_p95_ms": 2.0, "still_s": 0.0, "users": 50,
        "user_errors": 0,
    }  # fmt: skip


def test_requests_that_hang_from_the_warm_up_on_are_seen(tmp_path):
    write_process(tmp_path, 1, [(1000.0, 10_000.0, 1, 0)] * 5)
    found = load_samples.figures(load_samples.read_processes(tmp_path), {"warm_up_s": 2, "duration_s": 3})
    assert (found["samples"], found["failed"], found["rps"], found["p95_ms"]) == (5, 5, 0.0, None)


def test_files_of_a_killed_process_are_read_as_far_as_they_go(tmp_path):
    write_process(tmp_path, 1, [(1000.0, 5.0, 0, 0)] * 3, ended=False)
    with open(tmp_path / "samples-1.bin", "ab") as file:
        file.write(b"cut")
    with open(tmp_path / "seconds-1.jsonl", "a") as file:
        file.write('{"at": 1')
    (process,) = load_samples.read_processes(tmp_path)
    assert len(process["samples"]) == 3 and not process["ended"] and process["samples"][0][3] == "?"


def test_links_of_the_generator_are_not_followed(tmp_path):
    (tmp_path / "secret").write_text("{}")
    (tmp_path / "seconds-1.jsonl").symlink_to(tmp_path / "secret")
    with pytest.raises(load_samples.SamplesError, match=r"seconds-1\.jsonl"):
        load_samples.read_processes(tmp_path)
    with pytest.raises(load_samples.SamplesError):
        load_samples.read_plain(tmp_path)


def test_nothing_at_all_gives_no_window(tmp_path):
    found = load_samples.figures(load_samples.read_processes(tmp_path), PROFILE)
    assert found["window"] is None and found["samples"] == 0 and found["rps"] is None
    assert load_samples.progress(tmp_path, PROFILE)["text"] == "the generator starts"


# --- the verdict ------------------------------------------------------------------------------------------------------


def figures(**change):
    process = {
        "pid": "1",
        "version": "2.47.0",
        "ended": True,
        "seconds": 600,
        "cpu_percent": 40.0,
        "lag_p95_ms": 3.0,
        "still_s": 0.0,
        "users": 50,
    }
    both = [{**process, "user_errors": 0}, {**process, "pid": "2", "user_errors": 0}]
    return {
        "window": {"begin": 0, "end": 600}, "samples": 650_000, "failed": 0, "error_percent": 0.0, "rps": 1090.0,
        "sent_rps": 1090.0, "mean_ms": 25.0, "p50_ms": 20.0,
        "p95_ms": 60.0, "p99_ms": 90.0, "max_ms": 200.0, "names": {}, "failures": {}, "generator": both, "series": [],
    } | change  # fmt: skip


def judge(hosts=None, outcome=None, baseline=None, generator=None, **change):
    found = figures(**change)
    for process in found["generator"]:
        process.update(generator or {})
    made = load_judge.judge(
        found, profile=PROFILE, thresholds=THRESHOLDS, outcome=outcome or {"status": 0, "result": "success"},
        hosts={"app1": HOST} if hosts is None else hosts, baseline=baseline,
    )  # fmt: skip
    return made["verdict"], {one["id"]: one for one in made["evidence"]}


def test_a_good_run_passes_and_names_what_is_nearest_to_its_limit():
    verdict, evidence = judge()
    assert verdict == "pass" and {one["status"] for one in evidence.values()} == {"pass"}
    assert evidence["load.bottleneck"]["observed"].startswith("nearest to its limit: memory of app1 at 55 of 80 %")
    assert evidence["load.cpu"]["host"] == "app1" and evidence["load.cpu"]["detail"]["max"] == 90.0


@pytest.mark.parametrize(
    ("change", "id", "status", "verdict"),
    [
        ({"p95_ms": 500.0}, "load.p95", "fail", "fail"),
        ({"rps": 1000.0}, "load.throughput", "fail", "fail"),
        ({"rps": 600.0, "sent_rps": 600.0, "mean_ms": 160.0}, "load.throughput", "fail", "fail"),  # slow, not kept from sending
        ({"error_percent": 0.2, "failed": 1300}, "load.error_rate", "fail", "fail"),
        ({"error_percent": 0.1, "failed": 650}, "load.error_rate", "fail", "fail"),
        ({"samples": 900}, "load.p95", "no_evidence", "no_evidence"),
        ({"samples": 900, "p95_ms": None, "error_percent": 100.0, "failed": 900}, "load.p95", "fail", "fail"),
        ({"hosts": {"app1": HOST | {"cpu_mean": 70.0}}}, "load.cpu", "fail", "fail"),
        ({"hosts": {"app1": HOST | {"memory_max": 81.0}}}, "load.memory", "fail", "fail"),
        ({"hosts": {"app1": HOST | {"samples": 300}}}, "load.cpu", "no_evidence", "no_evidence"),
        ({"hosts": {"app1": {"samples": 0, "problem": "not sampled"}}}, "load.memory", "no_evidence", "no_evidence"),
        ({"hosts": {}}, "load.cpu", "no_evidence", "no_evidence"),
    ],
)
def test_each_limit_is_seen_red(change, id, status, verdict):
    found, evidence = judge(**change)
    assert (found, evidence[id]["status"]) == (verdict, status)
    assert evidence["load.baseline"]["status"] == "no_evidence"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"outcome": {"status": None, "result": "oom-kill"}}, "ended with oom-kill"),
        ({"outcome": {"status": None, "result": "timeout"}}, "ended with timeout"),
        ({"outcome": {"status": 2, "result": "success"}}, "exit status 2"),
        ({"outcome": {"status": None, "result": "gone"}}, "ended with gone"),
        ({"generator": {"ended": False}}, "did not live to the end"),
        ({"generator": {"seconds": 100}}, "was seen in 100 of 600 seconds"),
        ({"generator": {"still_s": 121.0}}, "stood still for 121 of 600 seconds"),
        ({"generator": {"cpu_percent": 97.0}}, "97 % of a core"),
        ({"generator": {"lag_p95_ms": 51.0}}, "51 ms late"),
        ({"generator": {"users": 40}}, "80 of 100 users"),
        ({"generator": {"user_errors": 3}}, "the locust file raised 3 times"),
        ({"samples": 0}, "no request was measured"),
        ({"sent_rps": 600.0, "rps": 600.0}, "600 requests/s were sent, with answers after 25 ms 1100 could have been"),
    ],
)
def test_a_generator_that_was_the_limit_is_neither_pass_nor_fail(change, words):
    verdict, evidence = judge(**change)
    assert verdict == "invalid" and words in evidence["load.executed"]["reason"]
    assert evidence["load.executed"]["status"] == "error"
    assert {evidence[id]["status"] for id in (*load_judge.FIGURES, "load.bottleneck", "load.baseline")} == {"no_evidence"}


def test_a_missing_process_is_seen():
    verdict, evidence = judge(generator={}, p95_ms=1.0)
    assert verdict == "pass"
    found = figures()
    found["generator"].pop()
    problems = load_judge.generator_problems(found, PROFILE, THRESHOLDS, {"status": 0, "result": "success"})
    assert problems == ["1 of 2 sending processes left figures", "50 of 100 users were there"]
    assert evidence["load.executed"]["detail"]["generator"]


# --- the baseline -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("was", "status"),
    [
        ({"p95_ms": 55.0, "rps": 1090.0}, "pass"),
        ({"p95_ms": 40.0, "rps": 1090.0}, "fail"),  # half as much again, and more than noise
        ({"p95_ms": 60.0, "rps": 1400.0}, "fail"),
    ],
)
def test_a_regression_beyond_the_margin_fails(was, status):
    verdict, evidence = judge(baseline={"release": "3-1.0.0", **was})
    assert (verdict, evidence["load.baseline"]["status"]) == (status, status)
    if status == "fail":
        assert "worse than release 3-1.0.0 by more than 20 %" in evidence["load.baseline"]["reason"]


def test_a_few_milliseconds_are_no_regression():
    assert load_judge.regressions({"p95_ms": 12.0, "rps": 100}, {"p95_ms": 6.0, "rps": 100}, 20) == []


def test_the_last_good_release_of_the_same_profile_is_compared(tmp_path):
    file = tmp_path / "folder" / "baselines.json"
    result = {"run_id": "r", "at": "t", "identity": "same", "p95_ms": 1.0, "rps": 2.0, "error_percent": 0.0}
    for release in ("1-a", "2-b", "3-c", "2-b"):
        load_baseline.keep(file, load_baseline.load(file), {**result, "release": release, "more": "is not kept"})
    results = load_baseline.load(file)
    assert [one["release"] for one in results] == ["1-a", "3-c", "2-b"] and "more" not in results[0]
    assert load_baseline.find(results, "same", "2-b")["release"] == "3-c"
    assert load_baseline.find(results, "other", "2-b") is None
    for damage in ("[", "{}", '[{"release": "1"}]'):
        file.write_text(damage)
        with pytest.raises(ValueError, match="move it away"):
            load_baseline.load(file)
    profiles = (PROFILE, PROFILE | {"users": 99}, PROFILE | {"baseline_margin_percent": 1})
    same, other, margin = (load_profile.identity(one, "f") for one in profiles)
    assert same != other and same == margin and same != load_profile.identity(PROFILE, "g")


# --- the hosts --------------------------------------------------------------------------------------------------------


def test_this_machine_is_sampled(tmp_path):
    load_sampler.sample(load_sampler.Host(), 0.35, tmp_path / "samples.jsonl", interval_s=0.1)
    samples = load_sampler.read(tmp_path / "samples.jsonl")
    assert 1 <= len(samples) <= 4 and all(0 < one["memory"] < 100 and one["cpu"] >= 0 for one in samples)
    with pytest.raises(load_samples.SamplesError):
        load_sampler.read(tmp_path / "none.jsonl")


def container(folder, version):
    """/proc and /sys/fs/cgroup as a container with systemd sees them."""
    proc, cgroup = folder / "proc", folder / "cgroup"
    (proc / "1").mkdir(parents=True)
    (proc / "self").mkdir()
    (proc / "meminfo").write_text("MemTotal: 8000 kB\nMemAvailable: 4000 kB\n")
    (proc / "stat").write_text("cpu  100 0 100 1000 0 0 0 0 0 0\n")
    if version == 2:
        (cgroup / "docker/id").mkdir(parents=True)
        lines, group = "0::/docker/id/init.scope\n", cgroup / "docker/id"
        (group / "cpu.stat").write_text("usage_usec 7000000\n")
        (group / "memory.current").write_text("3000000\n")
        (group / "memory.stat").write_text("anon 1\ninactive_file 1000000\n")
        (group / "memory.max").write_text("4000000\n")
    else:
        for name in ("cpu,cpuacct", "memory"):
            (cgroup / name / "docker/id").mkdir(parents=True)
        lines = "4:cpu,cpuacct:/docker/id\n3:memory:/docker/id/init.scope\n1:name=systemd:/docker/id/init.scope\n"
        (cgroup / "cpu,cpuacct/docker/id/cpuacct.usage").write_text("7000000000\n")
        group = cgroup / "memory/docker/id"
        (group / "memory.usage_in_bytes").write_text("3000000\n")
        (group / "memory.stat").write_text("cache 1\ntotal_inactive_file 1000000\n")
        (group / "memory.limit_in_bytes").write_text("4000000\n")
    for pid in ("1", "self"):
        (proc / pid / "cgroup").write_text(lines)
    return load_sampler.Host(str(proc), str(cgroup))


@pytest.mark.parametrize("version", [1, 2])
def test_a_containers_figures_are_its_own_not_the_machines(tmp_path, version):
    host = container(tmp_path, version)
    assert (host.cpu_seconds(), host.memory_percent()) == (7.0, 50.0)


def test_a_machines_figures_come_from_proc(tmp_path):
    proc = tmp_path / "proc"
    for pid in ("1", "self"):
        (proc / pid).mkdir(parents=True)
        (proc / pid / "cgroup").write_text("0::/init.scope\n")
    (proc / "meminfo").write_text("MemTotal: 8000 kB\nMemAvailable: 2000 kB\n")
    (proc / "stat").write_text("cpu  100 0 100 1000 0 0 0 0 0 0\n")
    (proc / "net").mkdir()
    (proc / "net/tcp").write_text("  sl local rem st\n 0: a b 01 c\n 1: a b 0A c\n 2: a b 01 c\n")
    host = load_sampler.Host(str(proc), str(tmp_path))
    assert host.memory_percent() == 75.0 and host.connections() == 2
    assert host.cpu_seconds() == 200 / os.sysconf("SC_CLK_TCK")


def test_samples_outside_of_the_window_do_not_count_and_clocks_are_set_right():
    samples = [{"at": 1000.0 + at, "cpu": float(at), "memory": 10.0, "connections": at} for at in range(100)]
    window = {"begin": 1050, "end": 1060}
    assert load_sampler.summary(samples, window)["cpu_mean"] == 55.5
    assert load_sampler.summary(samples, {"begin": 0, "end": 10})["samples"] == 0
    assert "problem" in load_sampler.summary(samples, None)
    ahead = {"app1": {"samples": [{**one, "at": one["at"] + 3600} for one in samples], "clock": 4600.0, "problem": ""}}
    series, summaries = load_judgement.hosts_of(ahead, window, 1000.0)
    assert summaries["app1"]["samples"] == 12 and series["app1"][0]["at"] == 1000.0
    lost = {"app1": {"samples": [], "clock": 1000.0, "problem": "this host was not sampled"}}
    assert load_judgement.hosts_of(lost, window, 1000.0)[1]["app1"]["problem"] == "this host was not sampled"


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_a_whole_run_becomes_evidence_files_and_a_baseline(tmp_path, monkeypatch):
    run, tree = tmp_path / "run", tmp_path / "tree"
    (run / "out").mkdir(parents=True)
    (tree / "src").mkdir(parents=True)
    (tree / "src/locustfile.py").write_text("# load")
    (run / "locust.log").write_text("started with key s3cret-value\n")
    (run / "out/locust.html").write_text("x" * 2000 + "s3cret-value")
    profile = PROFILE | {"warm_up_s": 2, "duration_s": 8, "spawn_rate": 100, "pace_rps": 200}
    for pid in (1, 2):
        write_process(run / "out", pid, [(1000.0 + at / 100, 5.0, 0, 0) for at in range(1000)])
    thresholds = THRESHOLDS | {"throughput_rps": 150}
    samples = [{"at": 1000.0 + at, "cpu": 20.0, "memory": 30.0, "connections": 5} for at in range(12)]
    job = {
        "run_id": "r1", "folder": str(run), "directory": str(tree), "profile": profile, "thresholds": thresholds,
        "secrets": {"K": "s3cret-value"}, "hosts": {"app1": {"samples": samples, "clock": 1000.0, "problem": ""}}, "clock": 1000.0,
        "baselines": str(tmp_path / "kept.json"),
        "service": "demo", "release": "1-1.0.0", "rate_limit": None,
    }  # fmt: skip
    monkeypatch.setattr(load_judgement.transient_unit, "state", lambda unit: {"running": False, "status": 0, "result": "success"})
    monkeypatch.setattr(load_judgement.transient_unit, "stop", lambda unit: None)
    made = load_judgement.conclude(job)
    assert made["verdict"] == "pass", made["why"]
    assert {one["id"] for one in made["evidence"]} == {
        "load.tool", "load.script", "load.profile", "load.executed", "load.p95", "load.throughput", "load.error_rate", "load.cpu",
        "load.memory", "load.bottleneck", "load.baseline", "load.report",
    }  # fmt: skip
    assert [os.path.basename(file) for file in made["files"]] == ["load.json", "load.html", "locust.html", "locust.log"]
    kept = "".join(Path(file).read_text() for file in made["files"])
    assert "s3cret-value" not in kept and "http://" not in kept.replace("http://www.w3.org", "")
    assert load_baseline.load(job["baselines"])[0]["release"] == "1-1.0.0"
    assert len(made["greenroom"]["plots"]) == 5


def test_what_locust_is_told():
    job = {"run_id": "2026:x", "directory": "/d", "folder": "/f", "recorder": "/r.py", "url": "https://a.internal", "connect": "10.0.0.1",
           "ca_file": "/ca", "profile": PROFILE, "env": {"A": 1}, "secrets": {"B": "b"}}  # fmt: skip
    argv = load_run.locust_command(job, 5)
    assert argv[:2] == ["/d/venv/bin/locust", "--headless"] and "/d/src/locustfile.py,/r.py" in argv and "615s" in argv
    assert "--processes" not in load_run.locust_command(job | {"profile": PROFILE | {"processes": 1}}, 5)
    environment = load_run.environment(job)
    assert environment["A"] == "1" and environment["B"] == "b" and environment["SSL_CERT_FILE"] == "/ca"
    assert json.loads(environment["GREENROOM_LOAD"]) == {"folder": "/f/out", "users": 100, "pace_rps": 1100, "request_timeout_s": 10}
    assert load_run.unit_name("2026:x", "sampler") == "greenroom-load-2026-x-sampler.service"
    assert load_run.hosts_file(job).splitlines()[0] == "10.0.0.1 a.internal"
    assert load_profile.limit_s(PROFILE) == 685


def test_a_locust_file_that_is_not_there_is_named(tmp_path):
    job = {"directory": str(tmp_path), "folder": str(tmp_path / "run"), "profile": PROFILE}
    with pytest.raises(load_run.LoadError, match=r"load\.file"):
        load_run.prepare(job)
