"""A run is killed before each of its writes; the next command ends well, by the table of rules, and users are always on one whole release.

The process that is killed is a real one: it ends itself without a word before the n-th call that writes to a disk. What it would have done
after that call is what it has done before the next one, so all states between two writes are met.
"""

import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from ansible.module_utils.greenroom import reconcile as rules
from ansible.module_utils.greenroom import rollback
from ansible.module_utils.greenroom.reconcile import RULES, reconcile
from ansible.module_utils.greenroom.releases import Releases
from ansible.module_utils.greenroom.state import StateError, protected

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from gateway_folders import Gateway

WRITES = ("fsync", "replace", "rename", "unlink")
COMMITS = {"1.0.0": "1" * 40, "1.1.0": "2" * 40, "1.2.0": "3" * 40, "1.3.0": "4" * 40}


class Run:
    """One command under a lease of its own: the steps that the playbooks take, in their order."""

    def __init__(self, root, run_id):
        self.releases = Releases(root / "state", "svc", root / "switch")
        self.held = self.releases.lease.acquire(owner="anna@control", run_id=run_id, grace_s=0)
        self.mine = {"run_id": run_id, "fencing": self.held.lease["fencing"]}

    def deploy(self, version, *, red=False):
        done = reconcile(self.releases, **self.mine)
        state = self.releases.read()
        if not (state["live"] and state["live"]["version"] == version):
            content = {"commit": COMMITS[version], "lock_sha256": "l" * 64, "config_digest": "c"}
            before = state["live"]["slot"] if state["live"] else None
            job = self.releases.plan(**self.mine, version=version, **content)[0]["in_progress"]
            self.releases.stage(**self.mine, artefact_sha256="f" * 64)
            self.releases.switch_to(job["slot"], **self.mine, reason="verified")
            if red:
                self.releases.switch_to(before, **self.mine, reason="error rate")
                self.releases.fail(**self.mine, reason="error rate", bad=True)
            else:
                self.releases.confirm(**self.mine)
        self.held.give_back()
        return done

    def rollback(self, to=None):
        done = reconcile(self.releases, **self.mine, rolling_back=True)
        job = rollback.begin(self.releases, **self.mine, reason="errors", to=to)[0]["in_progress"]
        if job["step"] in ("planned", "staged"):
            self.releases.stage(**self.mine)
        self.releases.switch_to(job["slot"], **self.mine, reason="errors")
        self.releases.confirm(**self.mine)
        self.held.give_back()
        return done

    def switch(self, slot):
        reconcile(self.releases, **self.mine)
        self.releases.switch_to(slot, **self.mine, reason="a person's")
        self.held.give_back()


def killed_before(number, command):
    """Run `command` in a process that ends before its write number `number`; whether it was killed (False: it was through by then)."""
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert status in (0, 137), f"the command failed by itself at write {number}"
        return status == 137
    try:
        count = 0
        for name in WRITES:
            real = getattr(os, name)

            def counted(*args, real=real, **kwargs):
                nonlocal count
                count += 1
                if count > number:
                    os._exit(137)
                return real(*args, **kwargs)

            setattr(os, name, counted)
        command()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.fixture
def base(tmp_path):
    """Releases 1, 2 and 3 were proven; 3 is live in blue, 2 is warm in green."""
    root = tmp_path / "base"
    root.mkdir()
    gateway = Gateway(root)
    for number, version in enumerate(("1.0.0", "1.1.0", "1.2.0"), 1):
        gateway.deploy(f"run-{number}", version, COMMITS[version], config="c")
    return root


COMMANDS = {
    "deploy": lambda run: run.deploy("1.3.0"),
    "red deploy": lambda run: run.deploy("1.3.0", red=True),
    "rollback": lambda run: run.rollback(),
    "rollback to a cold release": lambda run: run.rollback("1"),
    "switch": lambda run: run.switch("green"),
}
# What is live when the same command, or another one, came after the one that was killed.
ENDS = {
    ("deploy", "deploy"): {4}, ("deploy", "rollback"): {2, 3}, ("red deploy", "rollback"): {2, 3}, ("rollback", "rollback"): {1, 2},
    ("rollback", "deploy"): {4, 5}, ("rollback to a cold release", "rollback to a cold release"): {1}, ("switch", "deploy"): {4},
    ("switch", "switch"): {2},
}  # fmt: skip


@pytest.mark.parametrize(("first", "second"), ENDS, ids=[" then ".join(both) for both in ENDS])
def test_a_command_killed_before_each_write_is_healed_by_the_next(base, tmp_path, first, second):
    seen, number = set(), 0
    while True:
        root = tmp_path / f"cut{number}"
        shutil.copytree(base, root)
        through = not killed_before(number, lambda root=root: COMMANDS[first](Run(root, "run-first")))
        releases = Releases(root / "state", "svc", root / "switch")
        stood, before = releases.switch.read(), releases.read()
        assert stood in ("blue", "green"), f"cut {number}: users are on the maintenance page"
        job = before["in_progress"]
        try:
            done = COMMANDS[second](Run(root, "run-second")) or []
        except StateError as refused:  # the same rollback target is live already: the first one was through
            assert through or not job, f"cut {number}: {refused}"
            done = []
        seen |= {(job["kind"], one["place"]) for one in done}
        if job and not through:
            assert done or second == "switch", f"cut {number}: nobody says what became of the run that died"
        state = releases.read()
        assert state["in_progress"] is None and releases.problems(state) == [], f"cut {number}"
        assert state["live"]["number"] in ENDS[first, second], f"cut {number}"
        assert releases.switch.read() == state["live"]["slot"]
        if first == "rollback" == second and job:
            assert state["live"]["number"] == 2, f"cut {number}: an interrupted rollback went one release further back"
        if first == "deploy" and second == "rollback" and job:
            assert state["live"]["number"] == (3 if stood == job["slot"] else 2), f"cut {number}"
        assert {state["live"]["number"], state["last_known_good"]["number"]} <= set(protected(state))
        releases.ledger.check(state["last_entry"])
        shutil.rmtree(root)
        if through:
            break
        number += 1
    assert number > 15, "too few writes were cut"
    assert seen or second == "switch"


def test_every_rule_is_met_by_a_cut(base, tmp_path, monkeypatch):
    """The table has no row that no killed run leads to, and no killed run leads to a place that the table does not have."""
    met = set()
    real = rules.place_of

    def place_of(state, stands):
        found = real(state, stands)
        met.add((state["in_progress"]["kind"], found))
        return found

    monkeypatch.setattr(rules, "place_of", place_of)

    def red_rollback(run):
        reconcile(run.releases, **run.mine, rolling_back=True)
        job = rollback.begin(run.releases, **run.mine, reason="errors", to="1")[0]["in_progress"]
        run.releases.stage(**run.mine)
        run.releases.switch_to(job["slot"], **run.mine, reason="errors")
        run.releases.switch_to(None, **run.mine, reason="red as well")
        run.releases.fail(**run.mine, reason="red as well")

    for name, command in {**COMMANDS, "red rollback": red_rollback}.items():
        number, through = 0, False
        while not through:
            root = tmp_path / f"{name.replace(' ', '')}{number}"
            shutil.copytree(base, root)
            through = not killed_before(number, lambda root=root, command=command: command(Run(root, "run-first")))
            run = Run(root, "run-second")
            reconcile(run.releases, **run.mine)
            again = reconcile(run.releases, **run.mine)
            assert {one["rule"] for one in again} <= {"keep"}, "a second look finds something again"
            shutil.rmtree(root)
            number += 1
    assert met == set(RULES)


def test_the_page_has_the_table_of_the_code():
    page = (Path(__file__).resolve().parents[2] / "docs" / "rollback.md").read_text(encoding="utf-8")
    rows = [f"| {kind} | {place} | {rule} | {text} |" for (kind, place), (rule, text) in RULES.items()]
    assert [row for row in rows if row not in page] == []


def test_a_rule_that_is_killed_itself_is_taken_up_again(base, tmp_path):
    """A deploy died after the switch; the run that undoes it dies before each of its writes; a third one ends well."""
    dead = tmp_path / "dead"
    shutil.copytree(base, dead)

    def die_switched():
        run = Run(dead, "run-dead")
        job = run.releases.plan(**run.mine, version="1.3.0", commit=COMMITS["1.3.0"], lock_sha256="l" * 64, config_digest="c")[0][
            "in_progress"
        ]
        run.releases.stage(**run.mine, artefact_sha256="f" * 64)
        run.releases.switch_to(job["slot"], **run.mine, reason="verified")

    assert not killed_before(10**6, die_switched)
    number, through = 0, False
    while not through:
        root = tmp_path / f"again{number}"
        shutil.copytree(dead, root)

        def heal(root=root):
            run = Run(root, "run-heal")
            reconcile(run.releases, **run.mine)

        through = not killed_before(number, heal)
        run = Run(root, "run-last")
        reconcile(run.releases, **run.mine)
        state = run.releases.read()
        assert (state["live"]["number"], run.releases.switch.read()) == (3, "blue"), f"cut {number}"
        assert state["bad"] == [] and state["in_progress"]["step"] == "staged" and state["in_progress"]["undone"], f"cut {number}"
        content = {"version": "1.3.0", "commit": COMMITS["1.3.0"], "lock_sha256": "l" * 64, "config_digest": "c"}
        assert run.releases.plan(**run.mine, **content)[0]["in_progress"]["number"] == 4, "its number is not taken up"
        shutil.rmtree(root)
        number += 1
    assert number > 10


def test_a_switch_moved_by_hand_in_between_needs_a_person(base):
    def die_switching(run):
        run.releases.plan(**run.mine, version="1.3.0", commit=COMMITS["1.3.0"], lock_sha256="l" * 64, config_digest="c")
        run.releases.stage(**run.mine, artefact_sha256="f" * 64)
        state = run.releases.read()
        state["in_progress"] |= {"step": "switching", "move": ["blue", "green"]}
        run.releases.commit(state, "switching", run.held.lease)

    run = Run(base, "run-dead")
    die_switching(run)
    run.held.drop()
    run.releases.switch.flip(None)
    other = Run(base, "run-second")
    with pytest.raises(StateError, match=r"moving users from blue to green, but they are on the maintenance page.*greenroom switch"):
        reconcile(other.releases, **other.mine)


# -- random histories ----------------------------------------------------------------------------------------------------


def test_random_histories_never_choose_a_wrong_target_or_give_up_a_needed_release(tmp_path):
    """Deploys, failures, rollbacks, deaths, and noisy times of files; a small model says what must be live and what the target is."""
    random_ = random.Random(20)
    for history in range(int(os.environ.get("GREENROOM_HISTORIES", "15"))):
        root = tmp_path / f"history{history}"
        root.mkdir()
        gateway, good, bad, undone, number = Gateway(root), [], set(), None, 0
        releases = gateway.releases
        for step in range(random_.randint(4, 14)):
            for path in (*root.glob("state/*"), *root.glob("switch/*")):
                os.utime(path, (random_.randint(0, 2**31),) * 2)
            action = random_.choice(["deploy", "deploy", "red", "die before", "die after", "rollback", "rollback"])
            mine = gateway.begin(f"run-{step}")
            reconcile(releases, **mine, rolling_back=action == "rollback")
            if action == "rollback":
                target = good[-1] if undone and good else good[-2] if len(good) > 1 else None
                if target is None:
                    with pytest.raises(StateError, match=r"no release to go back to|live already"):
                        rollback.begin(releases, **mine, reason="x")
                    if not good:
                        undone = None
                    continue
                job = rollback.begin(releases, **mine, reason="x")[0]["in_progress"]
                assert job["number"] == target, f"history {history}, step {step}"
                releases.stage(**mine)
                releases.switch_to(job["slot"], **mine, reason="x")
                releases.confirm(**mine)
                bad.add(undone or good[-1])
                good, undone = good[: good.index(target) + 1], None
            else:
                before = releases.read()["live"]
                version = f"{history}.{step}.0"
                job = gateway.plan(version, f"{step:040x}")["in_progress"]
                number, undone = job["number"], None
                if action != "die before":
                    gateway.stage()
                    gateway.switch(job["slot"])
                if action == "red":
                    gateway.switch(before["slot"] if before else None, "red")
                    releases.fail(**mine, reason="red", bad=True)
                    bad.add(number)
                elif action == "die after":
                    undone = number
                elif action == "deploy":
                    releases.confirm(**mine)
                    good.append(number)
            state = releases.read()
            if action.startswith("die"):
                continue
            live = state["live"]["number"] if state["live"] else None
            assert live == (good[-1] if good else None), f"history {history}, step {step}: {action}"
            assert {one["number"] for one in state["bad"]} == bad
            assert {*good[-2:]} <= {*protected(state)}, "a release that is needed may be removed"
