"""A gateway's folders, for the tests of what is live."""

import os

from ansible.module_utils.greenroom.lease import identity
from ansible.module_utils.greenroom.releases import Releases


class Gateway:
    """A gateway's folders in a temporary place, with the lease of one run at a time."""

    def __init__(self, root):
        self.root = root
        (root / "state").mkdir()
        self.releases = Releases(root / "state", "svc", root / "switch")
        self.run_id, self.fencing = "run-0", None

    def begin(self, run_id):
        lease, _, _ = self.releases.lease.acquire(owner="anna@control", control=identity(os.getpid()), run_id=run_id, ttl_s=3600)
        self.run_id, self.fencing = run_id, lease["fencing"]
        return {"run_id": run_id, "fencing": self.fencing}

    def end(self):
        self.releases.lease.release(self.fencing, self.run_id)

    def plan(self, version="1.0.0", commit="a" * 40, lock="l" * 64, config="c1", **more):
        return self.releases.plan(
            run_id=self.run_id, fencing=self.fencing, version=version, commit=commit, lock_sha256=lock, config_digest=config, **more
        )[0]

    def stage(self, migrated=None):
        return self.releases.stage(run_id=self.run_id, fencing=self.fencing, artefact_sha256="f" * 64, migrated=migrated)[0]

    def switch(self, slot, reason="verified"):
        return self.releases.switch_to(slot, run_id=self.run_id, fencing=self.fencing, reason=reason)[0]

    def deploy(self, run_id, version="1.0.0", commit="a" * 40, config="c1", migrated=None):
        self.begin(run_id)
        job = self.plan(version, commit, config=config)["in_progress"]
        self.stage(migrated)
        self.switch(job["slot"])
        state = self.releases.confirm(run_id=run_id, fencing=self.fencing)[0]
        self.end()
        return state
