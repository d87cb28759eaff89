"""Extension of locust, loaded beside a service's own locust file: keeps every request, and watches the generator itself.

Every process that sends requests writes two files into the folder that $GREENROOM_LOAD names:
    samples-<pid>.bin      one `SAMPLE` a request: when it began (seconds since 1970), milliseconds, 1 if it failed, number of its name
    seconds-<pid>.jsonl    a line a second: CPU (share of a core), event loop lags (milliseconds), users, requests and failures so far;
                           the first line tells the version, the last one has `ended`, the names, and failures by message
A process that was killed has no last line. The format is read by load_samples.py of Greenroom's library.
"""

import collections
import json
import os
import resource
import struct
import time

import gevent
import locust
from locust import constant_throughput, events
from locust.clients import HttpSession
from locust.contrib.fasthttp import FastHttpUser
from locust.runners import MasterRunner

SAMPLE = struct.Struct("<dfBH")
LAG_STEP_S = 0.05
SETTINGS = json.loads(os.environ["GREENROOM_LOAD"])


class Recorder:
    """What one process writes."""

    def __init__(self, environment):
        self.environment, self.buffer, self.lags = environment, bytearray(), []
        self.names, self.failures = {}, collections.Counter()
        self.requests = self.failed = self.user_errors = 0
        self.samples = open(f"{SETTINGS['folder']}/samples-{os.getpid()}.bin", "wb", buffering=0)  # noqa: SIM115  (closed in `end`)
        self.seconds = open(f"{SETTINGS['folder']}/seconds-{os.getpid()}.jsonl", "w", buffering=1)  # noqa: SIM115
        self.seconds.write(json.dumps({"locust": locust.__version__, "at": time.time()}) + "\n")
        self.cpu, self.clock = cpu_seconds(), time.monotonic()
        self.greenlets = [gevent.spawn(self.watch_lag), gevent.spawn(self.tell)]

    def request(self, name, response_time, exception=None, start_time=None, **_other):
        """Listener of every request."""
        began = start_time if start_time is not None else time.time() - (response_time or 0) / 1000
        number = self.names.setdefault(name, len(self.names))
        self.buffer += SAMPLE.pack(began, response_time or 0, exception is not None, min(number, 65535))
        self.requests += 1
        if exception is not None:
            self.failed += 1
            text = str(exception)[:200]
            self.failures[text if text in self.failures or len(self.failures) < 50 else "other"] += 1

    def user_error(self, exception, **_other):
        """Listener of what the locust file itself raises outside of a request."""
        self.user_errors += 1
        self.failures[f"the locust file raised {type(exception).__name__}: {exception}"[:200]] += 1

    def watch_lag(self):
        """How much later than asked for the event loop wakes this greenlet."""
        while True:
            before = time.monotonic()
            gevent.sleep(LAG_STEP_S)
            self.lags.append(round(1000 * (time.monotonic() - before - LAG_STEP_S), 1))

    def tell(self):
        """A line a second."""
        while True:
            gevent.sleep(1)
            self.write()

    def write(self, **last):
        """Write what has come together since the last line."""
        cpu, clock = cpu_seconds(), time.monotonic()
        share = (cpu - self.cpu) / max(clock - self.clock, 0.001)
        runner = self.environment.runner
        line = {
            "at": time.time(), "cpu": round(share, 3), "lags_ms": self.lags, "users": runner.user_count if runner else 0,
            "requests": self.requests, "failed": self.failed, "user_errors": self.user_errors, **last,
        }  # fmt: skip
        self.cpu, self.clock, self.lags = cpu, clock, []
        data, self.buffer = bytes(self.buffer), bytearray()
        self.samples.write(data)
        self.seconds.write(json.dumps(line) + "\n")

    def end(self, **_other):
        """The last line, once."""
        if not self.seconds.closed:
            gevent.killall(self.greenlets)
            self.write(ended=True, names=list(self.names), failures=dict(self.failures))
            self.samples.close()
            self.seconds.close()


def cpu_seconds():
    """Processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def limit_waiting(user_classes):
    """No request waits longer than the limit: one that hangs fails instead of going unseen."""
    limit = SETTINGS["request_timeout_s"]
    for one in user_classes:
        if issubclass(one, FastHttpUser):
            one.network_timeout = min(one.network_timeout, limit)
            one.connection_timeout = min(one.connection_timeout, limit)
    plain = HttpSession.request

    def request(self, *args, **kwargs):
        kwargs.setdefault("timeout", limit)
        return plain(self, *args, **kwargs)

    HttpSession.request = request


@events.init.add_listener
def begin(environment, **_other):
    """In each process that sends: pace the users, listen, and end with the process."""
    if SETTINGS.get("pace_rps"):
        for one in environment.user_classes:
            one.wait_time = constant_throughput(SETTINGS["pace_rps"] / SETTINGS["users"])
    if isinstance(environment.runner, MasterRunner):
        return
    limit_waiting(environment.user_classes)
    recorder = Recorder(environment)
    environment.events.request.add_listener(recorder.request)
    environment.events.user_error.add_listener(recorder.user_error)
    environment.events.quitting.add_listener(recorder.end)
