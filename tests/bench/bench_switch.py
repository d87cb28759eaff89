"""How long the one switch takes: the bare flip, and the whole recorded step (state, ledger, flip, state, ledger), all fsynced.

Beside it a process looks for blue, green, blue all the time, as the gateway does at each request, and counts what it did not find.
Prints medians, 95th percentiles and the ratio. Usage: python tests/bench/bench_switch.py [flips, default 500]
"""

import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "plugins" / "module_utils"))
from greenroom.lease import identity
from greenroom.releases import Releases


def look(directory: str, begun, ended, stop, results) -> None:
    """Look for a slot's file until told to stop; (looks, looks that found none, of those the ones that two flips overlapped).

    On a busy machine this process can be put aside in the middle of a look for longer than two flips take. Such a look proves nothing.
    """
    blue, green = os.path.join(directory, "blue"), os.path.join(directory, "green")
    looks = holes = torn = 0
    while not stop.is_set():
        for _ in range(1000):
            before = ended.value
            looks += 1
            if not (os.path.exists(blue) or os.path.exists(green) or os.path.exists(blue)):
                holes += 1
                torn += begun.value - before > 1
    results.put((looks, holes, torn))


def timed(work, times: int) -> tuple[float, float]:
    """(median, 95th percentile) in milliseconds of `work(number)`."""
    spent = []
    for number in range(times):
        start = time.perf_counter()
        work(number)
        spent.append((time.perf_counter() - start) * 1000)
        time.sleep(0.001)  # real switches do not follow each other within one request's look
    return statistics.median(spent), statistics.quantiles(spent, n=20)[-1]


def prepared(folder: Path) -> tuple[Releases, dict]:
    """A gateway with one release in each slot and a lease."""
    (folder / "state").mkdir()
    releases = Releases(folder / "state", "bench", folder / "switch")
    run = {"run_id": "bench"}
    run["fencing"] = releases.lease.acquire(owner="bench@here", control=identity(os.getpid()), **run)[0]["fencing"]
    for version in ("1", "2"):
        job = releases.plan(**run, version=version, commit=version * 40, lock_sha256=version * 64)[0]["in_progress"]
        releases.stage(**run, artefact_sha256="f" * 64)
        releases.switch_to(job["slot"], **run, reason="bench")
        releases.confirm(**run)
    return releases, run


def main() -> None:
    """Measure and print."""
    flips = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCH_DIR")) as folder:
        releases, run = prepared(Path(folder))
        stop, results = multiprocessing.Event(), multiprocessing.Queue()
        begun, ended = multiprocessing.RawValue("Q", 0), multiprocessing.RawValue("Q", 0)
        reader = multiprocessing.Process(target=look, args=(str(releases.switch.directory), begun, ended, stop, results))
        reader.start()
        flip = releases.switch.flip

        def counted(slot: str | None) -> bool:
            begun.value += 1
            moved = flip(slot)
            ended.value += 1
            return moved

        releases.switch.flip = counted
        bare = timed(lambda number: releases.switch.flip("blue" if number % 2 == 0 else "green"), flips)
        releases.switch.flip("green")
        whole = timed(lambda number: releases.switch_to("blue" if number % 2 == 0 else "green", **run, reason="bench"), flips // 5)
        stop.set()
        looks, holes, torn = results.get()
        reader.join()
    print(f"flip, fsynced:               median {bare[0]:7.2f} ms   P95 {bare[1]:7.2f} ms   ({flips} flips)")
    print(f"whole step with its records: median {whole[0]:7.2f} ms   P95 {whole[1]:7.2f} ms   ({flips // 5} steps)")
    print(f"the records cost {whole[0] / bare[0]:.1f} times the flip")
    print(f"{holes - torn} of {looks} looks found no slot ({torn} more were interrupted for longer than two flips)")
    if holes > torn:
        sys.exit("a reader found no slot: the switch left a hole")


if __name__ == "__main__":
    main()
