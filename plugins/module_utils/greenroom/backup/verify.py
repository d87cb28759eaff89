"""The proof of a logical backup: fetched from every place, opened with the restore host's key, restored, compared, and the checks checked.

`verify` walks the steps of STEPS in order. A step that fails ends the walk; what comes after it is "not run", never "ok". At the end the
checks themselves are tried on a damaged copy: if they do not turn red, the verdict is "verifier broken", whatever they said before.
"""

from __future__ import annotations

import datetime
import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from .. import durable
from ..records import ERROR, FAIL, NOT_APPLICABLE, NOT_RUN, PASS, record
from . import dump, fingerprint, key_probe, manifest, negative_control, restore, seal, signature, store
from .configuration import Configuration
from .errors import BackupError
from .pipeline import libpq, run
from .scratch_cluster import ScratchCluster, assert_scratch
from .walk import BROKEN, VERIFIED, Stop, Walk

LOOKED = "looked at, not verified"
MAX_AGE_S = 26 * 3600  # of the newest backup, for a daily schedule with its random delay

TARGET = "logical"  # tells these records from those of physical backups

# step -> (evidence, what is expected)
STEPS = {
    "select": ("backup.logical.manifest", "a signed manifest of this service's database in every place"),
    "age": ("backup.logical.age", None),
    "fetch": ("protect.backup.file", "every place hands out the bytes that the manifest names"),
    "size": ("protect.backup.size", "tables and rows, and a file of the stated size"),
    "open": ("protect.backup.encrypted", "sealed by age, opened with the key of the restore host"),
    "scratch": ("protect.restore.isolated", "an empty throw-away cluster that is not the source"),
    "restore": ("protect.restore.run", "roles and database restored without an error or a warning"),
    "compare": ("protect.restore.integrity", "0 differences from the fingerprint of the dump's snapshot"),
    "indexes": ("backup.logical.amcheck", "indexes and heaps agree"),
    "keys": ("backup.logical.key_probe", "every encrypted value opens with the service's key"),
    "control": ("backup.logical.negative_control", "a damaged byte, a dropped row and a changed right turn red"),
}


def verify(
    config: Configuration,
    *,
    backup_id: str | None = None,
    max_age_s: float | None = MAX_AGE_S,
    key_probes: Sequence[Mapping] = (),
    jobs: int = 2,
    scratch_dir: Path | None = None,
    also: Callable[[ScratchCluster, str], list[dict]] | None = None,
    now: datetime.datetime | None = None,
    user: str | None = "postgres",
    look_only: bool = False,
) -> dict:
    """Prove the newest logical backup, or `backup_id`.

    max_age_s: the newest must not be older; None does not ask. key_probes: [{name, table, column, key_file}] for columns that pgcrypto
    encrypts (optionally `expression`, SQL with %(key)s). scratch_dir: where the throw-away cluster lies, a folder that `user` can reach;
    the work folder by default. also: called with the restored cluster and the database's name, returns further evidence records.
    look_only: manifests, signatures and ages, nothing else; that proves nothing, and the verdict says so.

    {verdict, statement, id, source, contents, places: {name: {ok, bytes, reason}}, differences, seconds: {step: s}, total_s, expires,
    evidence, sha256 (of all that)}. Never raises for a bad backup, only for a configuration that is unusable, or BusyError.
    """
    return _Proof(config, backup_id, max_age_s, list(key_probes), jobs, scratch_dir, also, now, user, look_only).run()


class _Proof(Walk):
    def __init__(self, config, backup_id, max_age_s, key_probes, jobs, scratch_dir, also, now, user, look_only):
        super().__init__(STEPS, TARGET, {"id": backup_id, "places": {}})
        self.config, self.backup_id, self.max_age_s, self.key_probes, self.jobs = config, backup_id, max_age_s, key_probes, jobs
        self.also, self.user, self.look_only = also, user, look_only
        self.now = now or datetime.datetime.now(datetime.timezone.utc)  # noqa: UP017
        self.work_dir = Path(config["work_dir"])
        self.scratch_dir = Path(scratch_dir) if scratch_dir else self.work_dir
        self.identity = Path(config["seal.identity_file"])
        self.places = [store.make(place) for place in config["places"]]
        self.document: dict = {}
        self.cluster: ScratchCluster | None = None

    def run(self) -> dict:
        start = time.monotonic()
        if not self.places:
            raise BackupError(f"{self.config.path}: places is empty: there is nothing to fetch from")
        with dump.only_one(self.work_dir):
            for left in [*self.work_dir.glob("verify-*"), *self.scratch_dir.glob("scratch-*")]:
                shutil.rmtree(left, ignore_errors=True)  # of a run that was killed
            self.folder = Path(tempfile.mkdtemp(prefix="verify-", dir=self.work_dir))
            try:
                for name in STEPS:
                    if self.look_only and name not in ("select", "age"):
                        break
                    if name == "control" and self.also:
                        self._also()
                    self._step(name)
            except Stop:
                pass
            finally:
                if self.cluster:
                    self.cluster.remove()
                    shutil.rmtree(self.cluster.folder, ignore_errors=True)
                shutil.rmtree(self.folder, ignore_errors=True)
        self.result["total_s"] = round(time.monotonic() - start, 3)
        left_out = "only manifests and ages were looked at"
        return self._conclude(self.now, green=LOOKED if self.look_only else VERIFIED, left_out=left_out)

    def _expected(self, name: str) -> object:
        return f"at most {self.max_age_s:g} s old" if name == "age" and self.max_age_s else super()._expected(name)

    def _also(self) -> None:
        """The caller's own checks of the restored copy; a red one ends the walk as the steps do."""
        try:
            records = self.also(self.cluster, self.database)
        except BackupError as error:
            why = {"reason": str(error), "detail": {"target": TARGET}}
            records = [record("backup.logical.release", FAIL, "the release's own checks run", "refused", **why)]
        self.evidence += records
        if any(one["status"] not in (PASS, NOT_RUN, NOT_APPLICABLE) for one in records):
            self.result["failed_step"] = "also"
            raise Stop

    # --- the steps ------------------------------------------------------------------------------------------------------

    def _trust(self, content: bytes, signed: bytes) -> None:
        signature.verify(
            content,
            signed,
            allowed_signers_file=self.config["signature.allowed_signers_file"],
            signer=self.config["signature.signer"],
            namespace=self.config["signature.namespace"],
        )

    def _select(self):
        newest, problems = None, []
        for place in self.places:
            try:
                document, bad = manifest.select(place, self._trust, self.backup_id)
                problems += bad
                if newest is None or manifest.moment(document["snapshot_time"]) > manifest.moment(newest["snapshot_time"]):
                    newest = document
            except (BackupError, OSError) as error:
                problems.append(str(error))
        if newest is None:
            raise BackupError("; ".join(problems))
        for place in self.places:
            outcome = self.result["places"][place.name] = {"ok": False, "bytes": None, "reason": None}
            try:
                if manifest.read(place, newest["id"], self._trust) != newest:
                    raise BackupError(f"{place.name}: has another manifest under {newest['id']}")
            except FileNotFoundError:
                outcome["reason"] = f"{place.name}: lacks the newest backup {newest['id']}. Look at the job that puts it there"
            except (BackupError, OSError) as error:
                outcome["reason"] = str(error)
        problems += [one["reason"] for one in self.result["places"].values() if one["reason"]]
        source = newest["source"]
        if newest["service"] != self.config["service"]:
            problems.append(f"backup {newest['id']} is of service {newest['service']}, not {self.config['service']}")
        if source["database"] != self.config["database.name"]:
            problems.append(f"backup {newest['id']} is of database {source['database']}, not {self.config['database.name']}")
        known = self.config.get("database.system_identifier")
        if known and source["system_identifier"] != known:
            problems.append(f"backup {newest['id']} is of cluster {source['system_identifier']}, not {known}")
        self.document = newest
        self.result |= {"id": newest["id"], "source": source, "contents": newest["contents"], "snapshot_time": newest["snapshot_time"]}
        if problems:
            raise BackupError("; ".join(dict.fromkeys(problems)))
        return f"{newest['id']} in {len(self.places)} places", {"samples": len(self.places)}

    def _age(self):
        age = round(manifest.age_s(self.document, self.now), 1)
        if self.max_age_s is None:
            return None, {"reason": "no limit was given"}
        if age > self.max_age_s:
            raise BackupError(
                f"the newest backup shows the database of {age:.0f} s ago, the limit is {self.max_age_s:g} s. Look at the backup's timer",
                {"observed": age},
            )
        if age < -60:
            raise BackupError(f"the backup is of {-age:.0f} s in the future: a clock is wrong", {"observed": age})
        return age, None

    def _fetch(self):
        part = self.document["parts"][0]
        wanted, bad = {"size": part["size"], "sha256": part["sha256"]}, []
        self.sealed = self.folder / manifest.DATA
        for place in self.places:
            outcome, key = self.result["places"][place.name], f"{self.document['id']}/{part['name']}"
            try:
                # One copy is kept; of the others every byte is fetched and hashed.
                found = place.measure(key) if self.sealed.exists() else place.fetch(key, self.sealed)
                if found != wanted:
                    self.sealed.unlink(missing_ok=True)
                    raise BackupError(
                        f"{place.name}: {key} is {found['size']} bytes {found['sha256'][:12]}… instead of {wanted['size']} bytes"
                        f" {wanted['sha256'][:12]}…: it is cut, damaged or exchanged. Copy it anew from another place"
                    )
                outcome |= {"ok": True, "bytes": found["size"]}
            except (BackupError, OSError) as error:
                missing = isinstance(error, FileNotFoundError)
                outcome["reason"] = f"{place.name}: {key} is not there" if missing else str(error)
                bad.append(outcome["reason"])
        if bad:
            raise BackupError("; ".join(bad))
        return f"{part['sha256']} from {', '.join(self.result['places'])}", {"samples": len(self.places), "bytes": part["size"]}

    def _size(self):
        contents = self.document["contents"]
        if contents["tables"] < 1 or contents["rows"] < 1:
            raise BackupError(f"the backup has {contents['tables']} tables and {contents['rows']} rows: it proves nothing")
        if self.sealed.stat().st_size < 1000:
            raise BackupError(f"the file has {self.sealed.stat().st_size} bytes")
        text = f"{self.document['parts'][0]['size']} bytes, {contents['tables']} tables, {contents['rows']} rows"
        return text, {"samples": contents["rows"], "dump_bytes": contents["dump_bytes"]}

    def _open(self):
        with open(self.sealed, "rb") as stream:
            if stream.read(len(seal.HEADER)) != seal.HEADER:
                raise BackupError(f"{self.document['id']}: the file is not sealed by age")
        mine, theirs = seal.key_id(seal.recipient_of(self.identity)) if self._identity_there() else "", self.document["seal"]["recipients"]
        if mine not in theirs:
            raise BackupError(f"the backup is sealed for the keys {', '.join(theirs)}, {self.identity} is {mine}. Find the right identity")
        self.inside = self.folder / "inside"
        self.inside.mkdir(mode=0o700)
        seal.unpack(self.sealed, self.inside, self.identity, self.document["parts"][0])
        self.fingerprint = json.loads((self.inside / "fingerprint.json").read_text(encoding="utf-8"))
        if durable.digest(self.fingerprint) != self.document["contents"]["fingerprint"]:
            raise BackupError("the fingerprint inside the backup is not the one that the manifest names")
        return f"opened with key {mine}", None

    def _identity_there(self) -> bool:
        seal.check_identity(self.identity)
        return True

    def _scratch(self):
        folder = Path(tempfile.mkdtemp(prefix="scratch-", dir=self.scratch_dir))
        self.cluster = ScratchCluster(folder, bin_dir=self.config["database.bin_dir"], user=self.user, settings=restore.SETTINGS)
        self.cluster.superuser = self.document["source"]["superuser"]
        self.cluster.start()
        with self.cluster.connect() as connection:
            assert_scratch(connection)
        if self.cluster.system_identifier == self.document["source"]["system_identifier"]:
            raise BackupError("the scratch cluster has the source's system identifier")
        return f"cluster {self.cluster.system_identifier}, socket only; source {self.document['source']['system_identifier']}", None

    def _restore(self):
        seconds = restore.restore(self.inside, self.document, self.cluster, jobs=self.jobs)
        self.database = self.document["source"]["database"]
        self.result["restore_s"] = seconds
        return f"restored in {sum(seconds.values()):.1f} s", {f"{name}_s": value for name, value in seconds.items()}

    def _compare(self):
        after = fingerprint.take(self.cluster.dsn(self.database), workers=self.jobs, bin_dir=self.cluster.bin_dir, like=self.fingerprint)
        found = fingerprint.differences(
            self.fingerprint, after, reload=lambda dumped: restore.reloaded_schema(self.cluster, self.database, dumped)
        )
        self.result["differences"] = found
        if found:
            raise BackupError(f"{len(found)} differences: {'; '.join(found[:10])}", {"observed": len(found)})
        return 0, {"samples": after["rows"], "tables": len(after["tables"]), "bytes": after["bytes"]}

    def _indexes(self):
        _conninfo, env = libpq(self.cluster.dsn(self.database))
        server = ["-h", str(self.cluster.socket_dir), "-p", str(self.cluster.port), "-U", self.cluster.superuser]
        env["PGOPTIONS"] = restore.OPTIONS
        depth = ["--heapallindexed", "--parent-check", "--install-missing", f"-j{self.jobs}"]
        done = run(f"{self.cluster.bin_dir}/pg_amcheck", *server, *depth, self.database, env=env)
        if done.stdout.strip() or done.stderr.strip():
            raise BackupError(f"pg_amcheck: {(done.stdout + done.stderr).decode(errors='replace').strip()[-1500:]}")
        with self.cluster.connect(self.database) as connection:
            count = connection.execute("SELECT count(*) FROM pg_index WHERE indexrelid >= 16384").fetchone()[0]
        return f"{count} indexes agree with their tables", {"samples": max(count, 1)}

    def _keys(self):
        has_pgcrypto = "pgcrypto" in self.document["source"]["extensions"]
        if not self.key_probes:
            return None, {"reason": f"no column was named{', although pgcrypto is installed' if has_pgcrypto else ''} (key_probes)"}
        with self.cluster.connect(self.database) as connection:
            values = sum(key_probe.probe(connection, one) for one in self.key_probes)
        return f"{values} values of {len(self.key_probes)} columns", {"samples": values}

    def _control(self):
        """Damage what was proved, and look whether the same checks see it."""
        blind, offset = negative_control.sealed_file(self.sealed, self.document["parts"][0]["sha256"], self.identity)
        more, table = negative_control.restored_copy(self.cluster, self.database, self.fingerprint)
        if blind + more:
            self.result["verdict"] = BROKEN
            raise BackupError("verifier broken: " + "; ".join(blind + more))
        return f"byte {offset}, a row of {table} and a right on it turned red", {"samples": 3}

    # --- the end --------------------------------------------------------------------------------------------------------

    def _statement(self) -> str:
        if self.result["verdict"] != VERIFIED:
            if self.result["verdict"] == LOOKED:
                return f"backup {self.result['id']} was looked at; nothing was fetched, opened or restored"
            failed = next(one for one in self.evidence if one["status"] in (FAIL, ERROR))
            return f"{self.result['verdict']} at step {self.result['failed_step']}: {failed['reason']}"
        source, contents, part = self.document["source"], self.document["contents"], self.document["parts"][0]
        skipped = [one["reason"] for one in self.evidence if one["status"] == NOT_RUN]
        return (
            f"Backup {self.document['id']} (sha256 {part['sha256']}, of cluster {source['system_identifier']},"
            f" database {source['database']} oid {source['database_oid']}, snapshot {source['snapshot']}, LSN {source['lsn']},"
            f" {self.document['snapshot_time']}) was fetched from {' and '.join(self.result['places'])}, opened with the key of this host"
            " and restored strictly into a new empty cluster;"
            f" {contents['tables']} tables, {contents['rows']} rows, {contents['bytes']} bytes, schema, owners, grants, policies, triggers,"
            " sequences, large objects, extensions, locale, settings and roles equal the fingerprint taken in the same snapshot; indexes"
            f" match their tables; {self.result['total_s']:.1f} s from start to end."
            + (f" Not run: {'; '.join(skipped)}." if skipped else "")
        )
