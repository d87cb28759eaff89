"""A gateway's folders, for the tests of what is live."""

from ansible.module_utils.greenroom.releases import Releases


class Gateway:
    """A gateway's folders in a temporary place, with the lease of one run at a time."""

    def __init__(self, root):
        self.root = root
        (root / "state").mkdir()
        self.releases = Releases(root / "state", "svc", root / "switch")
        self.run_id, self.fencing, self.held = "run-0", None, None

    def begin(self, run_id):
        if self.held:
            self.held.drop()  # as a run that died: what it did not give back is taken over
        self.held = self.releases.lease.acquire(owner="anna@control", run_id=run_id, grace_s=0)
        self.run_id, self.fencing = run_id, self.held.lease["fencing"]
        return {"run_id": run_id, "fencing": self.fencing}

    def end(self):
        self.held.give_back()

    def plan(self, version="1.0.0", commit="a" * 40, lock="l" * 64, config="c1", **more):
        return self.releases.plan(
            run_id=self.run_id, fencing=self.fencing, version=version, commit=commit, lock_sha256=lock, config_digest=config, **more
        )[0]

    def stage(self, migrated=None):
        migrated = migrated or {"revision": [], "revisions": []}
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
