"""What a person typed: tags, limit, `run_…` variables, and whether this is the project's own Ansible configuration.

`check` answers with all problems at once. The list of tags here is the documented one; a contract test compares it
with `deploy.yml --list-tags`. Why: an unknown tag and a limit that matches nothing end green in Ansible, having done nothing.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator

from .contract_rules import needed_groups
from .problems import Problem, as_dicts, nearest

PHASES = ("prepare", "release", "database", "configure", "verify", "protect")
# Of the command that goes back, never selected otherwise: everything that is needed, or one part of it. One at a time, no phase beside it.
ROLLBACK_TAGS = ("rollback", "rollback_application", "rollback_configuration", "rollback_gateway")
SPECIAL_TAGS = ("all", "tagged", "always")  # Ansible's own; untagged and never would select nothing here
WHOLE_FLEET = PHASES[1:]  # from here on every host must take part: half a fleet on a new release is no release
ANSIBLE_LEAST = (2, 19)
ANSIBLE_BELOW = (2, 20)

REF = r"(?!.*\.\.)[A-Za-z0-9][A-Za-z0-9._/+-]{0,99}"
BOOLEAN = "(?i:true|false|yes|no)"
# {name: (pattern of the whole value, the same in words, what it is for)}; playbooks and roles use no others (contract test).
RUN_VARIABLES: dict[str, tuple[str, str, str]] = {
    "run_ref": (REF, "letters, digits and . _ / + -, no ..", "the tag, branch or commit to deploy instead of the contract's"),
    "run_reason": (r"[^\x00-\x1f]{3,500}", "3 to 500 characters on one line", "why this run is made; stands in the ledger"),
    "run_approved_by": (r"[^\x00-\x1f]{2,200}", "2 to 200 characters on one line", "who approved it; stands in the ledger"),
    "run_wait_s": (r"\d{1,5}", "0 to 99999", "seconds to wait for another run's lease; 0 by default"),
    "run_adopt": (BOOLEAN, "true or false", "true: the gateway's state is lost or damaged; adopt the newest copy of the app hosts"),
    "run_accept_data_loss": (BOOLEAN, "true or false", "true: go back although the plan says that data is lost"),
    "run_rollback_to": (REF, "a number or version, such as 12 or 1.4.0", "the release to go back to instead of the one before"),
    "run_maintenance": ("on|off|status", "on, off or status", "close the door, open it, or look (playbooks/maintenance.yml)"),
    "run_for": (r"[1-9][0-9]{0,6}(s|min|m|h|d)", "a time such as 30min or 2h", "how long maintenance mode lasts; an hour by default"),
    "run_retry_bad": (BOOLEAN, "true or false", "true: try a release again that was found bad before"),
}
INTERNAL_VARIABLES = ("run_id",)  # a fact of the run itself


def selected_phases(run_tags: Iterable[str], skip_tags: Iterable[str] = ()) -> list[str]:
    """The phases that run, in their order, as Ansible selects them by tags."""
    wanted = set(run_tags) or {"all"}
    if rollback_part(run_tags):
        return ["rollback"]
    chosen = PHASES if wanted & {"all", "tagged"} else tuple(phase for phase in PHASES if phase in wanted)
    skipped = set(skip_tags)
    return [] if skipped & {"all", "tagged"} else [phase for phase in chosen if phase not in skipped]


def rollback_part(run_tags: Iterable[str]) -> str:
    """What a rollback is asked for: `everything`, `application`, `configuration`, `gateway`, or empty: this is no rollback."""
    asked = [tag for tag in ROLLBACK_TAGS if tag in set(run_tags)]
    return (asked[0].removeprefix("rollback").lstrip("_") or "everything") if asked else ""


def left_out(phases: list[str]) -> list[str]:
    """The phases that come before the last of `phases` and are not among them: they must have been proven by an earlier run."""
    return [phase for phase in PHASES[: PHASES.index(phases[-1])] if phase not in phases] if phases and phases != ["rollback"] else []


def check(
    *,
    run_tags: list[str],
    skip_tags: list[str],
    limit: str | None,
    selected_hosts: list[str],
    groups: dict,
    contract: dict | None,
    variables: dict,
    ansible_version: str,
    config_file: str | None,
    project_dir: str,
) -> list[dict]:
    """All problems with the command line, as `{path, file, line, message, fix, text}`.

    `limit` is ansible_limit or None; `selected_hosts` the hosts that remain under it; `contract` the normalized contract or None
    if it is unsound (then the limit is compared with the groups gateway and app); `variables` {name: value} of all `run_…` variables.
    """
    problems = [
        *_tag_problems(run_tags, skip_tags),
        *_limit_problems(selected_phases(run_tags, skip_tags), limit, selected_hosts, groups, contract),
        *_variable_problems(variables),
        *_ref_problems(variables, contract),
        *_version_problems(ansible_version),
        *_config_problems(config_file, project_dir),
    ]
    return as_dicts(problems)


def _tag_problems(run_tags: list[str], skip_tags: list[str]) -> Iterator[Problem]:
    known = (*PHASES, *ROLLBACK_TAGS, *SPECIAL_TAGS)
    unknown = False
    for option, tags in (("--tags", run_tags), ("--skip-tags", skip_tags)):
        for tag in tags:
            if tag not in known:
                unknown = True
                yield Problem(
                    option,
                    f"{tag!r} is no tag{nearest(tag, (*PHASES, *ROLLBACK_TAGS))}",
                    f"Use one of: {', '.join((*PHASES, *ROLLBACK_TAGS))}",
                )
    if rollback_part(run_tags) and len(set(run_tags)) > 1:
        yield Problem("--tags", f"{', '.join(run_tags)}: a rollback is one command of its own", "Name one rollback tag and nothing else")
    if "always" in skip_tags:
        yield Problem("--skip-tags", "'always' would skip the checks of the inputs, the lease and the gate", "Leave it out")
    elif not unknown and not selected_phases(run_tags, skip_tags):
        yield Problem("--tags", "nothing is left to do", f"Select at least one of: {', '.join(PHASES)}")


def _limit_problems(phases: list[str], limit: str | None, selected: list[str], groups: dict, contract: dict | None) -> Iterator[Problem]:
    if not limit:
        return
    whole = [phase for phase in phases if phase in (*WHOLE_FLEET, "rollback")]
    needed = [*(needed_groups(contract) if contract else ("gateway", "app")), "monitoring", "restore"]
    missing = {host: group for group in needed for host in groups.get(group) or () if host not in selected}
    if whole and missing:
        left_out = ", ".join(f"{host} ({group})" for host, group in missing.items())
        yield Problem(
            "--limit",
            f"{limit!r} leaves out {left_out}, which {', '.join(whole)} would need: the fleet would be split",
            "Leave out --limit, or add --tags prepare, the one phase that may run on part of the hosts",
        )


def _variable_problems(variables: dict) -> Iterator[Problem]:
    for name, value in variables.items():
        if name in INTERNAL_VARIABLES:
            continue
        if name not in RUN_VARIABLES:
            fix = f"Known are: {', '.join(RUN_VARIABLES)}"
            yield Problem(f"-e {name}", f"is not known{nearest(name, RUN_VARIABLES)}", fix)
            continue
        pattern, form, meaning = RUN_VARIABLES[name]
        if not re.fullmatch(pattern, str(value)):
            yield Problem(f"-e {name}", f"is malformed; it is {meaning}", f"Write {form}")


def _ref_problems(variables: dict, contract: dict | None) -> Iterator[Problem]:
    if "run_ref" in variables and "artefact" in (contract or {}):
        yield Problem("-e run_ref", "the contract deploys a prebuilt archive, which has no other refs",
                      "Leave it out, or change `service.artefact`")  # fmt: skip


def _version_problems(version: str) -> Iterator[Problem]:
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if not ANSIBLE_LEAST <= found < ANSIBLE_BELOW:
        least, below = (".".join(map(str, pair)) for pair in (ANSIBLE_LEAST, ANSIBLE_BELOW))
        yield Problem("ansible", f"this is ansible-core {version}, the project is tested with {least} up to below {below}",
                      "Call scripts/setup, then .venv/bin/ansible-playbook")  # fmt: skip


def _config_problems(config_file: str | None, project_dir: str) -> Iterator[Problem]:
    wanted = os.path.join(project_dir, "ansible.cfg")
    if config_file is None or os.path.realpath(config_file) != os.path.realpath(wanted):
        yield Problem(
            "ansible.cfg",
            f"in force is {config_file or 'none'}, not the project's: callback, modules and connection settings would be missing",
            "Run from the project's folder, which must not be world-writable, without another ANSIBLE_CONFIG",
        )
