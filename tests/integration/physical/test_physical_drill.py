"""The restore drill, the RPO by experiment and the module over both, against real servers and repositories."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup import drill, negative_control, physical_evidence, rpo, wal, walk
from ansible.module_utils.greenroom.backup.errors import BackupError
from ansible.module_utils.greenroom.backup.pgbackrest import PROOF, VERIFIED, PgBackRest

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def point(site):
    site.sql("CREATE ROLE app LOGIN")
    pgbackrest = PgBackRest(site.stanza, site.config)
    made = physical_evidence.make_point(
        pgbackrest, (1, 2), site.dsn(), name="drill", bin_dir=str(site.bin), workers=2, wait_s=30
    )  # fmt: skip
    assert [one["status"] for one in made["evidence"]] == ["pass"]
    return made["point"]


def drilled(site, point, folder, repo=2, **more):
    pgbackrest = PgBackRest(site.stanza, site.config)
    options = {"bin_dir": str(site.bin), "rto_limit_s": 120, "max_age_s": 3600, "role": "app", **more}
    return drill.drill(pgbackrest, folder, point, repo=repo, **options)


def statuses(result) -> dict:
    return {one["id"]: one["status"] for one in result["evidence"]}


@pytest.mark.parametrize("repo", [1, 2])
def test_a_good_backup_is_verified_with_its_rto_by_step(site, point, room, repo):
    result = drilled(site, point, room, repo)
    assert result["verdict"] == drill.VERIFIED, result["statement"]
    assert set(statuses(result).values()) == {"pass"}
    assert list(result["seconds"]) == list(drill.STEPS)
    assert 0 < result["rto_s"] <= sum(result["seconds"].values()) + 1
    (rto,) = [one for one in result["evidence"] if one["id"] == "protect.rto"]
    assert rto["observed"] == result["rto_s"]
    assert rto["detail"]["write_s"] == result["seconds"]["write"]
    assert "equal the fingerprint taken at that point" in result["statement"]
    assert not room.exists() or list(room.iterdir()) == []
    json.dumps(result)


def test_a_slow_restore_is_red(site, point, room):
    result = drilled(site, point, room, rto_limit_s=0.1)
    assert result["verdict"] == walk.FAILED
    assert [one["id"] for one in result["evidence"] if one["status"] != "pass"] == ["protect.rto"]
    assert "0.1 s are allowed" in result["statement"]


def test_what_comes_after_a_failed_step_is_not_run(site, point, room):
    result = drilled(site, point, room, max_age_s=0.001)
    assert result["verdict"] == walk.FAILED
    found = statuses(result)
    assert found.pop("backup.physical.age") == "fail"
    assert set(found.values()) == {"not_run"}
    assert "Look at the backup timer's journal" in result["statement"]


def test_another_content_than_the_points_is_red(site, point, room):
    table = {**point["fingerprint"]["tables"]["public.notes"], "sha256": "0" * 64}
    other = {**point, "fingerprint": {**point["fingerprint"], "tables": {**point["fingerprint"]["tables"], "public.notes": table}}}
    result = drilled(site, other, room)
    assert result["verdict"] == walk.FAILED
    assert statuses(result)["protect.restore.integrity"] == "fail"
    assert any("public.notes" in text for text in result["differences"])
    assert statuses(result)["protect.rto"] == "not_run"


def test_another_clusters_point_is_red(site, point, room):
    other = {**point, "fingerprint": {**point["fingerprint"], "system_identifier": "7000000000000000000"}}
    result = drilled(site, other, room)
    assert "another cluster" in result["statement"]
    assert result["failed_step"] == "select"


def test_a_role_that_did_not_come_back_is_red(site, point, room):
    result = drilled(site, point, room, role="nobody_knows")
    assert result["failed_step"] == "write"
    assert "role nobody_knows did not come back" in result["statement"]


def test_the_releases_own_checks_count(site, point, room):
    bad = {"id": "verify.own", "status": "fail", "expected": 1, "observed": 0, "reason": "the release says no"}
    result = drilled(site, point, room, application=lambda dsn: [bad])
    assert result["failed_step"] == "write"
    assert "the release says no" in result["statement"]


def test_a_verifier_that_sees_nothing_is_called_broken(site, point, room, monkeypatch):
    monkeypatch.setattr(negative_control, "flip_byte", lambda path: 0)  # the damage does not happen: nothing can turn red
    result = drilled(site, point, room)
    assert result["verdict"] == drill.BROKEN
    assert statuses(result)["backup.physical.negative_control"] == "fail"
    assert "verifier broken" in result["statement"]


def test_what_a_drill_proved_is_marked_and_what_it_did_not_is_not(site, point, room):
    pgbackrest = PgBackRest(site.stanza, site.config)
    good = drilled(site, point, room)
    assert physical_evidence.mark_verified(pgbackrest, [good])["marked"] == [good["backup"]["label"]]
    (marked,) = [one for one in pgbackrest.backups(2) if one["label"] == good["backup"]["label"]]
    assert marked["annotations"][PROOF] == good["sha256"]
    assert VERIFIED in marked["annotations"]
    with pytest.raises(BackupError, match="nothing was marked"):
        physical_evidence.mark_verified(pgbackrest, [{**good, "verdict": "failed"}])


@pytest.mark.parametrize("content", ["", "{}", '{"name": 1', '{"name": "x", "checksum": "0"}'])
def test_a_point_that_was_cut_or_edited_is_refused(tmp_path, content):
    file = tmp_path / "point.json"
    file.write_text(content)
    with pytest.raises(BackupError, match=r"point\.json.*[Mm]ake (?:a new point|one)"):
        physical_evidence.load_point(file)


def test_a_point_survives_its_file(tmp_path, point):
    physical_evidence.save_point(tmp_path / "point.json", point)
    assert physical_evidence.load_point(tmp_path / "point.json")["fingerprint"] == point["fingerprint"]
    assert (tmp_path / "point.json").stat().st_mode & 0o777 == 0o600


def test_wal_and_backups_of_now_are_measured(site, point):
    pgbackrest = PgBackRest(site.stanza, site.config)
    with site.connect("postgres") as connection:
        for _ in range(2):
            wal.beat(connection)
    site.switch()
    limits = {"max_age_s": 3600, "margin_s": 60, "rpo_limit_s": 60}
    found = physical_evidence.check_wal(pgbackrest, (1, 2), site.dsn("postgres"), **limits)
    assert found["problems"] == ""
    assert sorted(one["id"] for one in found["evidence"]) == sorted(
        ["backup.physical.age", "backup.physical.wal"] * 2 + ["backup.physical.checksums", "protect.rpo"]
    )
    late = physical_evidence.check_wal(pgbackrest, (2,), site.dsn("postgres"), **{**limits, "rpo_limit_s": 0.0001, "max_age_s": 0.001})
    assert {one["id"] for one in late["evidence"] if one["status"] == "fail"} == {"backup.physical.age", "protect.rpo"}


def test_a_repository_that_is_down_does_not_hide_the_other(site, point, store):
    pgbackrest = PgBackRest(site.stanza, site.configure(site.folder / "quick.conf", io_timeout=1))
    store.stop()
    try:
        found = physical_evidence.check_wal(
            pgbackrest, (1, 2), site.dsn("postgres"), max_age_s=3600, margin_s=60, rpo_limit_s=None
        )  # fmt: skip
    finally:
        store.start()
    by_repository = {(one["detail"]["target"], one["id"]): one["status"] for one in found["evidence"] if "detail" in one}
    assert by_repository[("repository 1", "backup.physical.wal")] == "error"
    assert by_repository[("repository 2", "backup.physical.wal")] == "pass"
    assert "store cannot be reached" in found["problems"]


def test_a_cluster_without_checksums_is_red(new_site):
    site = new_site(checksums=False)
    pgbackrest = PgBackRest(site.stanza, site.config)
    pgbackrest.backup(2, "full")
    found = physical_evidence.check_wal(pgbackrest, (2,), site.dsn("postgres"), max_age_s=None, margin_s=60, rpo_limit_s=None)
    assert "data checksums are off" in found["problems"]


def test_the_rpo_is_what_a_lost_server_loses(site, room):
    options = {"archive_timeout_s": 2, "bin_dir": str(site.bin), "rate": 100}
    result = physical_evidence.measure_rpo(str(room / "lost"), rpo_limit_s=60, **options)
    assert [one["status"] for one in result["evidence"]] == ["pass"]
    figures = result["rpo"]
    assert figures["acked"] == figures["recovered"] + figures["lost_rows"]
    assert figures["recovered"] > 0
    assert figures["lost_rows"] > 0  # nothing lost at the worst moment would mean that nothing was lost with the server
    assert figures["gaps"] == 0
    assert 0.2 < figures["lost_s"] < 30
    assert not (room / "lost").exists()


def test_too_much_loss_is_red(site, room, monkeypatch):
    lost = {"acked": 100, "recovered": 40, "lost_rows": 60, "lost_s": 61.0, "gaps": 0, "archive_timeout_s": 60}
    monkeypatch.setattr(rpo, "experiment", lambda folder, **options: lost)
    (record,) = physical_evidence.measure_rpo(str(room), rpo_limit_s=60)["evidence"]
    assert record["status"] == "fail"
    assert "Lower archive_timeout" in record["reason"]
    monkeypatch.setattr(rpo, "experiment", lambda folder, **options: {**lost, "lost_s": 0.0, "gaps": 3})
    assert physical_evidence.measure_rpo(str(room), rpo_limit_s=60)["evidence"][0]["status"] == "fail"


def module(arguments: dict) -> dict:
    """Run the module as Ansible would, in a process of its own."""
    code = (
        "import sys, runpy, ansible.module_utils\n"
        f"ansible.module_utils.__path__.append({str(ROOT / 'plugins' / 'module_utils')!r})\n"
        "from ansible.module_utils.testing import patch_module_args\n"
        f"with patch_module_args({arguments!r}):\n"
        f"    runpy.run_path({str(ROOT / 'plugins' / 'modules' / 'restore_drill.py')!r}, run_name='__main__')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_module_goes_all_the_way(site, point, room):
    common = {"stanza": site.stanza, "config": str(site.config), "repositories": [2], "bin_dir": str(site.bin)}
    server = {"socket": str(site.socket), "port": site.port, "database": "app"}
    file = str(room / "point.json")
    made = module({"state": "point", "point_file": file, **common, **server})
    assert made["changed"] is True, made
    assert "fingerprint" not in made["point"]
    elsewhere = {**common, "config": str(site.configure(site.folder / "restore.conf", restore_side=True))}
    drilled = module({"state": "drill", "point_file": file, "folder": str(room / "drill"), "role": "app", **elsewhere})
    assert drilled.get("failed") is None, drilled
    assert drilled["drills"][0]["verdict"] == "verified"
    assert drilled["changed"] is False
    marked = module({"state": "mark", "drills": drilled["drills"], **common})
    assert marked["marked"] == [drilled["drills"][0]["backup"]["label"]]
    looked = module({"state": "wal", "max_age_s": 3600, **common, **server})
    assert looked["wal"]["repositories"]["2"]["missing"] == []
    checked = module({"state": "drill", "point_file": file, "folder": str(room / "drill"), "_ansible_check_mode": True, **common})
    assert "nothing was measured" in checked["msg"]
    late = module({"state": "drill", "point_file": file, "folder": str(room / "drill"), "max_age_s": 0.001, **common})
    assert late["failed"] is True
    assert "at most 0.001 s are allowed" in late["msg"]
    assert [one["id"] for one in late["evidence"] if one["status"] == "fail"] == ["backup.physical.age"]
    missing = module({"state": "drill", "point_file": str(room / "none.json"), "folder": str(room / "drill"), **common})
    assert "does not exist" in missing["msg"]


def test_before_a_change_every_place_has_a_backup_and_a_point_after_it(site, new_site):
    pgbackrest = PgBackRest(site.stanza, site.config)
    made = physical_evidence.protect(pgbackrest, (1, 2), site.dsn(), name="deploy 7-1.0.0", wait_s=30, max_age_s=3600)
    (one,) = made["evidence"]
    assert one["status"] == "pass" and one["id"] == "protect.backup.before_deploy"
    assert made["point"]["name"].startswith("deploy_7-1.0.0_") and set(made["point"]["backups"]) == {"1", "2"}
    with pytest.raises(BackupError, match=r"at most 0\.001 s are allowed") as caught:
        physical_evidence.protect(pgbackrest, (1, 2), site.dsn(), name="late", wait_s=30, max_age_s=0.001)
    assert [each["status"] for each in caught.value.result["evidence"]] == ["error"]
    bare = new_site()
    with pytest.raises(BackupError, match="no backup that could be restored"):
        physical_evidence.protect(PgBackRest(bare.stanza, bare.config), (1, 2), bare.dsn(), name="none", wait_s=30, max_age_s=None)
