"""A real generator against a small real server with faults, both in processes of their own; profiles of a few seconds."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from ansible.module_utils.greenroom import load_judge, load_run, load_samples

ROOT = Path(__file__).resolve().parents[2]
RECORDER = ROOT / "roles" / "load_test" / "files" / "record_samples.py"
THRESHOLDS = {"p95_ms": 5000, "error_rate_percent": 0.1, "throughput_rps": 205, "cpu_percent": 70, "memory_percent": 80}
PROFILE = {
    "file": "locustfile.py", "users": 12, "spawn_rate": 12, "warm_up_s": 1, "duration_s": 5, "think_time_s": 0, "pace_rps": 300,
    "processes": 2, "request_timeout_s": 3, "baseline_margin_percent": 20,
}  # fmt: skip
HOSTS = {"app1": {"samples": 5, "cpu_mean": 20.0, "cpu_max": 30.0, "memory_max": 40.0, "connections_max": 12}}
LOCUST_FILE = """
from locust import FastHttpUser, HttpUser, constant, task

class Reader({user}):
    wait_time = constant(0)

    @task
    def read(self):
        {before}
        self.client.get("/")
"""
# Every request is one of its number: `fails` of a thousand get 500, `slow_s` is waited, `hang` never answers.
SERVER = """
import asyncio, sys
fails, slow_s, hang, count = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "hang", 0

async def serve(reader, writer):
    global count
    try:
        while True:
            await reader.readuntil(b"\\r\\n\\r\\n")
            count += 1
            bad = count * fails // 1000 != (count - 1) * fails // 1000
            if hang: await asyncio.sleep(3600)
            if slow_s: await asyncio.sleep(slow_s)
            status = b"500 Internal Server Error" if bad else b"200 OK"
            writer.write(b"HTTP/1.1 " + status + b"\\r\\nContent-Length: 2\\r\\n\\r\\nok")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()

asyncio.run(main())
"""


@contextlib.contextmanager
def server(fails: int = 0, slow_s: float = 0, hang: bool = False):
    """The address of a server that is gone at the end."""
    argv = [sys.executable, "-c", SERVER, str(fails), str(slow_s), "hang" if hang else "-"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


class Generator:
    """locust with the recorder, started as the unit would start it."""

    def __init__(self, folder: Path, url: str, before: str = "pass", user: str = "FastHttpUser", **profile):
        self.profile, self.folder = PROFILE | profile, folder
        (folder / "tree/src").mkdir(parents=True)
        (folder / "tree/venv").mkdir()
        (folder / "tree/venv/bin").symlink_to(Path(sys.executable).parent)
        (folder / "tree/src/locustfile.py").write_text(LOCUST_FILE.replace("{before}", before).replace("{user}", user))
        (folder / "run/out").mkdir(parents=True)
        self.job = {
            "run_id": "test", "directory": str(folder / "tree"), "folder": str(folder / "run"), "recorder": str(RECORDER), "url": url,
            "profile": self.profile, "env": {"FROM_CONTRACT": "1"}, "secrets": {},
        }  # fmt: skip
        with open(folder / "run" / load_run.LOG, "wb") as log:
            self.process = subprocess.Popen(
                load_run.locust_command(self.job, load_run.free_port()), env=load_run.environment(self.job), stdout=log, stderr=log,
                start_new_session=True, cwd=folder / "tree/src",
            )  # fmt: skip

    def wait_for(self, requests: int) -> None:
        """Until so many requests were sent."""
        until = time.monotonic() + 60
        while load_samples.progress(self.folder / "run/out", self.profile)["requests"] < requests:
            assert time.monotonic() < until and self.process.poll() is None, load_run.output_tail(str(self.folder / "run"))
            time.sleep(0.2)

    def senders(self) -> list[int]:
        """Process ids of those that send."""
        return [int(path.stem.removeprefix("seconds-")) for path in (self.folder / "run/out").glob("seconds-*.jsonl")]

    def finish(self) -> int:
        """Wait for the end; its exit status. Whatever is left of its group is ended."""
        try:
            status = self.process.wait(60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        return status

    def judged(self, thresholds=None, hosts=None, **options) -> dict:
        """Finish and judge: {verdict, invalid, evidence by id, figures}."""
        status = self.finish()
        figures = load_samples.figures(load_samples.read_processes(self.folder / "run/out"), self.profile)
        made = load_judge.judge(
            figures, profile=self.profile, thresholds=THRESHOLDS | (thresholds or {}), outcome={"status": status, "result": "success"},
            hosts=HOSTS if hosts is None else hosts, **options,
        )  # fmt: skip
        return {**made, "evidence": {one["id"]: one for one in made["evidence"]}, "figures": figures}


def explain(result: dict) -> str:
    """What a failed assertion shows."""
    return json.dumps({key: result[key] for key in ("verdict", "invalid")} | {"figures": {**result["figures"], "series": ""}}, indent=1)
