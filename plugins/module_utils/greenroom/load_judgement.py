"""From what a generator has left to evidence, files, plots and the baseline: the last step of a load test."""

from __future__ import annotations

import datetime
import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from . import load_baseline, load_judge, load_profile, load_report, load_run, load_sampler, load_samples, transient_unit
from . import records as rec
from .masking import masked, secret_parts

CLOCKS_AGREE_S = 5.0  # two hosts are asked for their time one after the other; below this the difference is the asking
MEASURED = (
    "load.executed", "load.p95", "load.throughput", "load.error_rate", "load.cpu", "load.memory", "load.report", "load.baseline",
)  # fmt: skip


def broken(reason: str) -> list[dict]:
    """Evidence of a load test that could not even be made."""
    return [rec.record(id, rec.ERROR, reason=f"the load test broke: {reason}") for id in MEASURED]


def conclude(job: Mapping) -> dict:
    """Judge the run in `job["folder"]`: {evidence, verdict, files, greenroom, output, why}.

    job: the arguments of the module load_test with state judged. Raises SamplesError, OSError, ValueError.
    """
    folder, profile, thresholds = Path(job["folder"]), job["profile"], job["thresholds"]
    source = Path(job["directory"]) / "src" / profile["file"]
    hide = secret_parts(job["secrets"].values())
    unit = load_run.unit_name(job["run_id"], "generator")
    outcome = transient_unit.state(unit)
    transient_unit.stop(unit)
    processes = load_samples.read_processes(folder / "out")
    figures = json.loads(masked(json.dumps(load_samples.figures(processes, profile)), hide))
    series, summaries = hosts_of(job["hosts"], figures["window"], job["clock"])
    file_sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
    identity = load_profile.identity(profile, file_sha256)
    results = load_baseline.load(job["baselines"])
    made = load_judge.judge(
        figures, profile=profile, thresholds=thresholds, outcome=outcome, hosts=summaries, rate_limit=job["rate_limit"],
        baseline=load_baseline.find(results, identity, job["release"]), margin_percent=profile["baseline_margin_percent"],
    )  # fmt: skip
    evidence = made["evidence"] = [*_tool(processes, profile, file_sha256), *made["evidence"]]
    about = {"service": job["service"], "release": job["release"], "run_id": job["run_id"], "at": _now(), "identity": identity}
    if made["verdict"] == rec.PASS:
        load_baseline.keep(job["baselines"], results, {**about, **{key: figures[key] for key in ("p95_ms", "rps", "error_percent")}})
    drawn = load_report.plots(figures, series, profile, thresholds)
    evidence.append(_report(folder, figures))
    files = load_report.write(folder, figures, made, drawn, profile, about) + _kept(folder, hide)
    bad = [one for one in evidence if one["status"] != rec.PASS]
    return {
        "evidence": evidence, "verdict": made["verdict"] if made["verdict"] != rec.PASS or not bad else bad[0]["status"], "files": files,
        "greenroom": {"plots": drawn}, "output": [masked(line, hide) for line in load_run.output_tail(str(folder))] if bad else [],
        "why": rec.red(evidence),
    }  # fmt: skip


def hosts_of(hosts: Mapping, window: Mapping | None, clock: float) -> tuple[dict, dict]:
    """({host: samples on the generator's clock}, {host: summary of the window}). `hosts` as the module's argument."""
    series, summaries = {}, {}
    for host, found in hosts.items():
        offset = float(found.get("clock") or clock) - clock
        offset = 0.0 if abs(offset) < CLOCKS_AGREE_S else offset
        series[host] = [{**one, "at": one["at"] - offset} for one in found.get("samples") or []]
        summaries[host] = load_sampler.summary(series[host], window)
        if found.get("problem"):
            summaries[host] = {"samples": 0, "problem": found["problem"]}
    return series, summaries


def _tool(processes: list[dict], profile: Mapping, file_sha256: str) -> list[dict]:
    versions = sorted({one["version"] for one in processes if one["version"]})
    wanted = "locust, without a screen"
    if versions:
        tool = rec.record("load.tool", rec.PASS, wanted, f"locust {', '.join(versions)}")
    else:
        tool = rec.record("load.tool", rec.NO_EVIDENCE, wanted, reason="no process of locust has told its version")
    return [tool, rec.record("load.script", rec.PASS, "the service's own locust file", f"{profile['file']}, SHA-256 {file_sha256[:12]}")]


def _report(folder: Path, figures: Mapping) -> dict:
    """Whether what a reader needs is there: measured figures (the runbook's template shipped "to be filled in"), and locust's own page."""
    page = folder / "out" / load_run.PAGE
    there = page.is_file() and not page.is_symlink() and page.stat().st_size > 1000
    whole = there and figures["samples"] > 0
    reason = None if whole else "no request was measured" if there else f"locust wrote no {load_run.PAGE}"
    observed = f"load.html, load.json, {load_run.PAGE}" if whole else None
    wanted = "target, measured value and verdict of each figure"
    return rec.record("load.report", rec.PASS if whole else rec.FAIL, wanted, observed, reason=reason)


def _kept(folder: Path, hide: list[str]) -> list[str]:
    """locust's page and log beside ours, without secrets; root follows no link of the generator's."""
    kept = []
    for source in (folder / "out" / load_run.PAGE, folder / load_run.LOG):
        try:
            text = masked(load_samples.read_plain(source).decode("utf-8", "replace"), hide)
        except load_samples.SamplesError:
            continue
        target = folder / source.name
        target.write_text(text, encoding="utf-8")
        target.chmod(0o600)
        kept.append(str(target))
    shutil.rmtree(folder / "out")
    return kept


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
