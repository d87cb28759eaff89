"""50 probes in one health_check call against 50 tasks of one probe each, through ansible-playbook on this machine.

A small HTTP server on loopback answers all of them. Prints the medians of the whole commands, and of the commands without what an
empty play costs, and both ratios.
"""

from __future__ import annotations

import http.server
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PROBES, REPEATS = 50, 3
ROOT = Path(__file__).resolve().parents[2]


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"status": "healthy"}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def play(tasks: list) -> str:
    return json.dumps([{"name": "Bench", "hosts": "localhost", "gather_facts": False, "connection": "local", "tasks": tasks}])


def task(name: str, probes: list) -> dict:
    return {"name": name, "health_check": {"probes": probes}, "vars": {"ansible_python_interpreter": sys.executable}}


def seconds(folder: Path, name: str, text: str) -> float:
    """Median wall time of one playbook, in seconds. Raises if it fails: a figure of a broken run is none."""
    path = folder / f"{name}.yml"
    path.write_text(text)
    env = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_FORCE_COLOR": "0"}
    argv = [str(Path(sys.executable).parent / "ansible-playbook"), "-i", "localhost,", str(path)]
    times = []
    for _ in range(REPEATS):
        started = time.monotonic()
        done = subprocess.run(argv, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
        times.append(time.monotonic() - started)
        if done.returncode != 0:
            raise SystemExit(f"{name} failed:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return statistics.median(times)


def main() -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/health"
    probes = [
        {"id": "verify.health.http", "type": "http", "url": url, "json": {"status": "healthy"}, "name": f"probe {number}"}
        for number in range(PROBES)
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        empty = seconds(folder, "empty", play([]))
        one = seconds(folder, "one_call", play([task("All probes", probes)]))
        many = seconds(folder, "single_tasks", play([task(f"Probe {number}", [probe]) for number, probe in enumerate(probes)]))
    server.shutdown()
    server.server_close()
    print(f"{PROBES} probes, medians of {REPEATS} runs; an empty play takes {empty:.2f} s")
    print(f"one call      {one:6.2f} s whole, {one - empty:6.2f} s without the empty play")
    print(f"single tasks  {many:6.2f} s whole, {many - empty:6.2f} s without the empty play")
    print(f"ratio         {many / one:6.1f}   whole, {(many - empty) / (one - empty):6.1f}   without the empty play  (wanted: 10)")


if __name__ == "__main__":
    main()
