"""Waits until no connection to an old slot is left: prints {connections, waited_s, drained, by_host}.

python3 - <deadline in seconds> <address:port> …   (read from standard input; standard library and ss only)
"""

import json
import subprocess
import sys
import time

deadline_s, targets = float(sys.argv[1]), sys.argv[2:]
begun = time.monotonic()
while True:
    shown = subprocess.run(["ss", "-Htn", "state", "established"], capture_output=True, text=True, check=True).stdout
    peers = [line.split()[3].replace("[::ffff:", "").replace("]", "") for line in shown.splitlines()]
    by_host = {target: peers.count(target) for target in targets}
    left, waited_s = sum(by_host.values()), time.monotonic() - begun
    if not left or waited_s >= deadline_s:
        print(
            json.dumps({"connections": left, "waited_s": round(waited_s, 2), "drained": not left, "by_host": by_host})
        )
        break
    time.sleep(min(0.1, deadline_s - waited_s))
