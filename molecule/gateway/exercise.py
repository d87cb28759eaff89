"""Uses the gateway from its own host and prints what it saw as JSON: flips under load, closed states, who is asked.

python3 - <scenario> <switch folder>    (from standard input)
"""

import http.client
import json
import os
import ssl
import sys
import threading
import time

SCENARIO, SWITCH = sys.argv[1:3]
BLUE, GREEN = f"{SWITCH}/blue", f"{SWITCH}/green"
PORTS = {"blue": 8101, "green": 8102}
NAME = "example.molecule.internal"
TRUST = ssl.create_default_context(cafile="/etc/greenroom/tls/host.crt")


def client() -> http.client.HTTPSConnection:
    return http.client.HTTPSConnection("localhost", 443, context=TRUST, timeout=10)


def ask(path: str = "/", method: str = "GET", body: bytes | None = None, connection=None, **headers: str):
    one = connection or client()
    one.request(
        method,
        path,
        body=body,
        headers={"Host": NAME, **{key.replace("_", "-"): value for key, value in headers.items()}},
    )
    answer = one.getresponse()
    text = answer.read()
    return answer.status, {key.lower(): value for key, value in answer.getheaders()}, text


def live():
    one = http.client.HTTPConnection("10.78.21.11", 8079, timeout=5)
    one.request("GET", "/live")
    return json.loads(one.getresponse().read())["slot"]


def only(slot: str | None) -> None:
    for path in (BLUE, GREEN):
        if os.path.exists(path):
            os.unlink(path)
    if slot:
        open(f"{SWITCH}/{slot}", "w").close()


def flips() -> dict:
    """40 clients that keep their connections, 40 flips: every request must be answered by one of the slots."""
    only("blue")
    ended, failed, counts = threading.Event(), [], []

    def load() -> None:
        one, done = client(), {8101: 0, 8102: 0}
        while not ended.is_set():
            try:
                status, _headers, body = ask(connection=one)
                if status == 200:
                    done[json.loads(body)["port"]] += 1
                else:
                    failed.append(status)
            except Exception as error:
                failed.append(repr(error))
                one = client()
        counts.append(done)

    clients = [threading.Thread(target=load) for _ in range(40)]
    for one in clients:
        one.start()
    wrong, slot = 0, "blue"
    time.sleep(1)
    for _ in range(40):
        before, slot = slot, "green" if slot == "blue" else "blue"
        os.rename(f"{SWITCH}/{before}", f"{SWITCH}/{slot}")
        # The very next request is the new slot's.
        wrong += json.loads(ask()[2])["port"] != PORTS[slot]
        wrong += live() != slot
        time.sleep(0.1)
    ended.set()
    for one in clients:
        one.join()
    total = {port: sum(one[port] for one in counts) for port in (8101, 8102)}
    return {
        "requests": sum(total.values()),
        "blue": total[8101],
        "green": total[8102],
        "failed": failed[:5],
        "failures": len(failed),
        "wrong": wrong,
    }


def closed() -> dict:
    """Whatever is not surely one slot is the maintenance page."""
    seen = {}

    def look(state: str) -> None:
        status, headers, body = ask()
        seen[state] = [
            status,
            headers.get("retry-after"),
            headers.get("x-frame-options"),
            json.loads(body).get("status"),
            live(),
        ]

    only(None)
    look("none")
    only("blue")
    open(GREEN, "w").close()
    look("both")
    only("blue")
    os.chmod(SWITCH, 0o700)
    look("unreadable")
    os.rename(SWITCH, f"{SWITCH}.away")
    look("absent")
    os.rename(f"{SWITCH}.away", SWITCH)
    os.chmod(SWITCH, 0o755)
    look("open")
    return seen


def manners() -> dict:
    """Headers, limits, names, the log."""
    only("green")
    status, headers, body = ask(
        "/things?token=very-secret-value",
        X_Request_Id="caller-0123456789",
        X_Forwarded_For="6.6.6.6",
        X_Forwarded_Proto="http",
    )
    came = json.loads(body)["headers"]
    made = ask(X_Request_Id='bad "id"')
    unknown = http.client.HTTPSConnection("localhost", 443, context=TRUST, timeout=5)
    unknown.request("GET", "/", headers={"Host": "elsewhere.example.com"})
    plain = http.client.HTTPConnection("localhost", 80, timeout=5)
    plain.request("GET", "/a?b=c", headers={"Host": "elsewhere.example.com"})
    moved = plain.getresponse()
    inside = http.client.HTTPConnection("127.0.0.1", 8079, timeout=5)
    inside.request("GET", "/blue/some/path?x=1")
    other = json.loads(inside.getresponse().read())
    time.sleep(0.3)
    with open("/var/log/nginx/access.log") as stream:
        lines = [json.loads(line) for line in stream]
        stream.seek(0)
        leaked = "very-secret-value" in stream.read()
    logged = next(line for line in lines if line["path"] == "/things")
    return {
        "status": status,
        "request_id": [headers["x-request-id"], came["X-Request-Id"], logged["request_id"]],
        "new_request_id": len(made[1]["x-request-id"]) == 32,
        "frame": headers["x-frame-options"],
        "hsts": headers["strict-transport-security"],
        "server": headers["server"],
        "upstream_sees": [came["Host"], came["X-Forwarded-For"], came["X-Forwarded-Proto"], came.get("Connection", "")],
        "unavailable_of_the_service": ask("/unavailable")[2][:8].decode(),
        "too_large": ask("/", "POST", b"x" * 2000)[0],
        "unknown_name": unknown.getresponse().status,
        "plain": [moved.status, moved.getheader("Location")],
        "probe_of_blue": [other["port"], other["path"], other["headers"]["Host"]],
        "lines": len(lines),
        "leaked": leaked,
        "logged": [
            logged["slot"],
            logged["upstream"].endswith(":8102"),
            logged["status"],
            float(logged["upstream_s"]) >= 0,
            logged["request_s"] >= 0,
        ],
    }


def retries() -> dict:
    """A POST whose host breaks off is not sent again; a GET is."""
    only("blue")
    path = f"/die/{time.time_ns()}"
    return {"post": ask(path, "POST", b"x")[0], "path": path}


def host_down() -> dict:
    """One app host refuses connections: nobody notices."""
    only("blue")
    one = client()
    answers = [ask(connection=one) for _ in range(50)]
    return {
        "failures": sum(status != 200 for status, _headers, _body in answers),
        "hosts": sorted({json.loads(body)["host"] for _s, _h, body in answers}),
    }


def slow() -> dict:
    """A request that is under way when the slot changes is answered by its old slot."""
    only("blue")
    seen = []
    one = threading.Thread(target=lambda: seen.append(ask("/slow/2")))
    one.start()
    time.sleep(0.5)
    os.rename(BLUE, GREEN)
    one.join()
    return {"status": seen[0][0], "port": json.loads(seen[0][2])["port"]}


print(json.dumps(globals()[SCENARIO]()))
