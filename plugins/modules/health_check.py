#!/usr/bin/python
"""Ansible module: many typed probes in one call (logic in module_utils/greenroom/health_check.py and probes/)."""

from __future__ import annotations

DOCUMENTATION = r"""
module: health_check
short_description: Measure many things on a host in one call, and leave evidence
description:
  - Runs a list of typed probes side by side in one module call and returns one evidence record for each.
  - The whole list is checked before the first probe runs. An unknown type or argument, a missing argument or an empty list fails.
  - What a target does wrong is a C(fail) record; a probe that cannot run or breaks leaves an C(error) record. Neither is ever a pass.
  - It only reads. What a probe has to write to prove something (a row, a message, a file) it takes back at once.
options:
  probes:
    description:
      - The probes. Each has C(id) (evidence id of the catalogue), C(type), and the arguments of its type, see I(notes).
      - Optional for each are C(name) (label of what is measured, it becomes C(detail.target)), C(timeout_s) (limit of one attempt in
        seconds, 5), C(within_s) (keep trying until it passes or so many seconds are over, 0) and C(detail) (figures to add to the record).
    type: list
    elements: dict
    required: true
  first:
    description: Probes that must pass before the others are run, such as those that wait for a start. If one does not, the module fails.
    type: list
    elements: dict
    default: []
  whole:
    description: A further record that passes only if every probe does.
    type: dict
    suboptions:
      id:
        description: Its evidence id.
        type: str
        required: true
      target:
        description: What it is about.
        type: str
        required: true
      required:
        description: Ids that must be among the records.
        type: list
        elements: str
        default: []
  secrets:
    description: Secrets by key. Arguments whose name ends in C(_key) and those in C(secret_headers) name one of them.
    type: dict
    default: {}
  fail:
    description: Fail if a probe does not pass. The message lists each of them with what was expected, what was observed, and the reason.
    type: bool
    default: true
  parallel:
    description: How many probes run at the same time.
    type: int
    default: 16
attributes:
  check_mode:
    description: The module only reads, so it does the same in check mode.
    support: full
notes:
  - "Expected values are compared by equality, or by operators in a dict: C(eq), C(ne), C(gt), C(ge), C(lt), C(le), C(in), C(matches),
    C(min_length), C(present). The last three show no value, use them for what is secret."
  - "The types amqp, postgresql and redis need a library on the host that its own Python does not have. Set
    C(ansible_python_interpreter) to Greenroom's environment there (C(/opt/greenroom/venv/bin/python))."
  - "B(amqp) - a RabbitMQ broker accepts the user on the virtual host and carries a message, or refuses the user. I(host) (str,
    required): host name or address; I(port) (int, default 5672): port number; I(user) (str, required): user; I(password_key) (secret):
    key of the password; I(vhost) (str, default /): virtual host; I(tls) (bool, default False): use TLS, verified; I(ca_file) (str):
    file of the authorities to trust instead of the system's; I(sni) (str): name to verify, default host; I(expect) (str, default
    connected, one of connected/refused): whether the login must work; I(version) (str): RabbitMQ's version, or its beginning such as 3;
    I(version_min) (str): oldest version allowed; I(queues) (list of str): queues that must exist (passive declare); I(exchanges) (list
    of str): exchanges that must exist (passive declare); I(round_trip) (bool, default True): publish and consume a message on an
    exclusive auto-delete queue; I(queue_prefix) (str): beginning of that queue's name, where permissions ask for one"
  - "B(apt) - Debian packages could be installed here: dpkg in order, its locks free, the package sources answer. "
  - "B(clock) - the clock agrees with the control node's, or is synchronised. I(controller_epoch) (float): the control node's time in
    seconds since 1970, taken as late as can be; without it the kernel is asked; I(max_offset_s) (float, default 30.0): seconds of
    difference allowed, the way to the host included"
  - "B(command) - a program ends with the wanted status and output. I(argv) (list of str, required): program and arguments; no secret
    belongs here, every user sees them; I(status) (int, default 0): wanted exit status; I(json) (dict): the output is JSON: dotted path
    to expected value or operators; I(stdout_matches) (str): regular expression found in the output; I(show_match) (bool, default
    False): show the text that matched, such as a version; I(user) (str): user to run as; I(cwd) (str): folder to run in; I(env) (dict):
    further environment variables; I(secret_env) (secrets): further environment variables whose values are secrets: name to key;
    I(stdin_key) (secret): key of a secret handed over on standard input"
  - "B(connection_budget) - the connections that all processes of both slots may open fit the database's limits. I(slots) (int, default
    2): releases side by side; I(hosts) (int, required): application hosts; I(processes) (int, required): processes a slot and host that
    hold a pool; I(pool) (int, required): connections a process; I(reserve) (int, default 10): for migration, exporters and people;
    I(max_connections) (int, required): the server's max_connections; I(superuser_reserved) (int, default 0): the server's
    superuser_reserved_connections, where reserve does not count them; I(role_limit) (int): the role's CONNECTION LIMIT, -1 for none"
  - "B(dns) - a name resolves on this host. I(name_to_resolve) (str, required): the name; I(addresses) (list of str): exactly these
    addresses are wanted"
  - "B(environ) - a running process has exactly the values of its env files. I(unit) (str): systemd unit whose main process is looked
    at; I(pid) (int): or the process itself; I(env_files) (list of str, required): the env files in the order in which systemd reads
    them: a later one wins; I(exact) (bool, default False): no further variable either, systemd's own apart; I(allow_extra) (list of
    str): further variables that are fine with exact"
  - "B(file) - a file or folder exists and is what it should be, or can be written to. I(path) (str, required): the path; I(exists)
    (bool, default True): must be there, or must not; I(kind) (str, one of file/directory/link/socket): what it must be; I(mode) (str):
    exact mode, an octal number in quotes such as '0600'; I(not_world_readable) (bool, default False): others have no right at all;
    I(owner) (str): name of the owner; I(group) (str): name of the group; I(min_bytes) (int): size at least; I(max_bytes) (int): size at
    most; I(link_target) (str): what the path finally leads to; I(sha256) (str): digest in hex; I(writable) (bool, default False): prove
    by writing that it can be written to; leaves nothing; I(nearest_parent) (bool, default False): if the path is not there yet, look at
    its nearest parent"
  - "B(http) - an HTTP request answers with the wanted status, JSON fields, headers, body and latency. I(url) (str): http or https
    address; a user or password in it is refused; I(base_url) (str): beginning of the address, for lists of checks that are run against
    several places; I(path) (str): the rest of the address, beside base_url; I(method) (str, default GET): HTTP method; I(headers)
    (dict): request headers; I(secret_headers) (secrets): request headers whose values are secrets: header name to key; I(bearer_key)
    (secret): key of a token sent as `Authorization: Bearer`; I(user) (str): user of basic authentication, with password_key;
    I(password_key) (secret): key of its password; I(ca_file) (str): file of the authorities to trust instead of the system's; I(sni)
    (str): name to ask for and to verify in TLS, default the address's host; I(connect_to) (str): host or host:port to connect to
    instead of the address's (the Host header stays); I(body) (str): request body; I(body_key) (secret): key of a secret that is the
    request body; I(json_body) (any): request body, sent as JSON; I(status) (list of int, default [200]): accepted status codes, one or
    several; I(status_below) (int): accept every status below this one instead; I(json) (dict): dotted path to expected value, or to
    operators (eq, ne, gt, ge, lt, le, in, matches, min_length, present); I(response_headers) (dict): header name to expected value,
    operators, or true for any value; I(body_matches) (str): regular expression found in the body; I(latency_ms) (float): limit of the
    P95, connection included, in milliseconds; I(samples) (int): requests to send one after the other; default 1, with latency_ms 20"
  - "B(log) - a unit's journal or a log file holds no errors since a moment, and is JSON where that is wanted. I(unit) (str): systemd
    unit whose journal is read; I(path) (str): or the log file; I(since) (any): seconds since 1970 or an ISO 8601 time; default the
    beginning; I(cursor) (str): detail.cursor of an earlier reading: read on from there; I(format) (str, default text, one of
    text/json): json: every line must be a JSON object; I(level_min) (str, default ERROR): lines of this level or worse count as errors;
    I(level_field) (str, default level): JSON field of the level; I(time_field) (str, default timestamp): JSON field of the time, for
    since; I(message_fields) (list of str, default ['event', 'message', 'msg']): JSON fields the excerpt is taken from; I(fields) (list
    of str): JSON fields that every line must have; I(allow) (list of str): regular expressions of error lines that are known and
    accepted; I(event) (str): regular expression of a line's beginning: lines in a row with the same one are one event, allowed if
    one is; I(errors_max) (int, default 0): errors accepted; I(allow_empty) (bool, default False): no line at all is fine;
    I(absent_secrets) (list of secret): keys of secrets that must not appear in any line; I(journal_directory) (str): read the journal
    files of this folder instead of the host's"
  - "B(metrics) - a Prometheus endpoint offers the required series with the wanted values. I(url) (str): http or https address; a user
    or password in it is refused; I(base_url) (str): beginning of the address, for lists of checks that are run against several places;
    I(path) (str): the rest of the address, beside base_url; I(method) (str, default GET): HTTP method; I(headers) (dict): request
    headers; I(secret_headers) (secrets): request headers whose values are secrets: header name to key; I(bearer_key) (secret): key of a
    token sent as `Authorization: Bearer`; I(user) (str): user of basic authentication, with password_key; I(password_key) (secret): key
    of its password; I(ca_file) (str): file of the authorities to trust instead of the system's; I(sni) (str): name to ask for and to
    verify in TLS, default the address's host; I(connect_to) (str): host or host:port to connect to instead of the address's (the Host
    header stays); I(required) (list of str): names that must be there; I(values) (dict): name or name{label=\"value\"} to expected
    value or operators; all matching series must meet it"
  - "B(os) - the operating system, its C library and its Python are what the release needs. I(supported) (list of str): accepted
    systems: `debian 12` or `debian >=12`; I(architecture) (str): machine such as x86_64; I(glibc_min) (str): oldest glibc allowed;
    I(wheel_tag) (str): platform tag of the release's wheels; stands for architecture and glibc_min; I(python_min) (str): oldest Python
    allowed; I(python_below) (str): first Python that is too new; I(python) (str, default /usr/bin/python3): the interpreter that
    python_min is about; I(os_release_file) (str, default /etc/os-release): where the system states its name"
  - "B(ports) - TCP ports are free, or held by ours. I(ports) (list of int, required): port numbers; I(held_by) (list of str): process
    or unit names that may hold them, with * and ?"
  - "B(postgresql) - a PostgreSQL server accepts the user and holds what it should. I(host) (str, required): host name, address or
    socket folder; I(port) (int, default 5432): port number; I(dbname) (str, required): database; I(user) (str, required): role;
    I(password_key) (secret): key of the password; I(sslmode) (str, default prefer, one of
    disable/allow/prefer/require/verify-ca/verify-full): as libpq's; I(ca_file) (str): file of the authorities for verify-ca and
    verify-full; I(version_min) (int): oldest major version allowed; I(ssl) (bool): this connection uses TLS, or not; I(extensions)
    (list of str): extensions that must be there; I(tables) (list of str): tables that must be there, `schema.table` or in public;
    I(indexes) (list of str): valid indexes that must be there; I(privileges) (list of dict): items of {object, kind, has: [], has_not:
    [], role}; I(refused) (list of str): statements that must fail for lack of privilege; always rolled back; I(query) (str): a query,
    with expect; I(parameters) (list): its parameters for %s; I(expect) (any): value or operators for the first column of the first row;
    a list for one column or one row; a list of lists for all rows; I(crud) (bool, default False): write, read, update and delete one
    row in a temporary table; I(crud_schema) (str): scratch schema to make that table in instead"
  - "B(python_env) - a virtual environment holds exactly what its lock file pins, and its package imports. I(venv) (str, required):
    folder of the virtual environment; I(lock) (str): requirements file that pins every package; I(also) (list of str): packages that
    may be there beside the lock file, such as the service itself; I(no_editable) (bool, default False): nothing is installed in
    editable mode; I(import_name) (str): Python package that must import; I(version) (str): what its __version__ must say"
  - "B(redis) - a Redis server answers PING through its address, and keeps a value. I(url) (str): redis://, rediss:// or unix:// address
    without a password; I(url_key) (secret): key of a secret that is the whole address; I(password_key) (secret): key of the password;
    I(ca_file) (str): file of the authorities for rediss; I(expect) (str, default answers, one of answers/refused): whether it must
    answer; I(version_min) (str): oldest version allowed; I(info) (dict): fields of INFO and the values they must have; I(round_trip)
    (bool, default False): write, read and delete a key of the probe's own; I(key_prefix) (str): beginning of that key's name"
  - "B(resources) - the host has enough cores, memory, disk space and inodes (its control group's limits count first). I(cpu) (float):
    cores at least; I(memory_gb) (float): memory at least, in 10^9 bytes (a machine sold as 4 GB has a little less than 4 GiB); I(paths)
    (list of str): folders whose file systems are looked at; one that does not exist stands for its nearest parent; I(disk_gb) (float):
    free space at least on each of them, in 10^9 bytes; I(inodes_percent) (float): free inodes at least on each of them, in percent"
  - "B(systemd) - a unit is in the wanted state and hardened, or the whole system is up. I(unit) (str): name of the unit, with its
    suffix; I(system) (bool, default False): check the whole system instead: systemd is process 1 and says running; I(allow_degraded)
    (bool, default True): for system: failed units are named, and accepted; I(active) (str, default active, one of
    active/inactive/failed/activating/absent): wanted state; I(sub_state) (str): wanted sub state such as running, waiting, exited;
    I(enabled) (bool): starts at boot, or does not; I(restarts_max) (int): automatic restarts since the unit was started, at most;
    I(exposure_max) (float): figure of `systemd-analyze security`, at most"
  - "B(tcp) - a TCP port accepts connections, or must not. I(host) (str, required): host name or address; I(port) (int, required): port
    number; I(expect) (str, default open, one of open/refused_or_filtered): what has to be seen; I(connect_s) (float): seconds after
    which a port counts as filtered, default timeout_s; I(reference_port) (int): port of the same host that must be open, so that a host
    that is down proves nothing"
  - "B(tls) - a TLS server shows a verified certificate that lives long enough and refuses old protocols. I(host) (str, required): host
    name or address; I(port) (int, default 443): port number; I(sni) (str): name to ask for and to verify, default host; I(connect_to)
    (str): host or host:port to connect to instead; I(ca_file) (str): file of the authorities to trust instead of the system's;
    I(days_left) (int, default 14): days the certificate must still be valid; I(min_protocol) (str, default TLSv1.2, one of
    TLSv1/TLSv1.1/TLSv1.2/TLSv1.3): oldest protocol allowed; I(refuse_older) (bool, default True): prove by trying that older protocols
    are refused"
author: Greenroom (@greenroom)
"""

EXAMPLES = r"""
- name: Check the idle slot
  health_check:
    probes:
      - id: verify.health.http
        type: http
        url: http://127.0.0.1:8102/health
        json: {status: healthy, dependencies.database.status: healthy}
        within_s: 120
      - {id: verify.health.latency, type: http, url: "http://127.0.0.1:8102/health", latency_ms: 100, samples: 50}
      - {id: prep.network.firewall, type: tcp, host: 10.0.0.4, port: 5432, expect: refused_or_filtered, reference_port: 22}
    first:
      - {id: verify.health.http, type: http, url: "http://127.0.0.1:8102/health", within_s: 120}
    whole: {id: verify.health.script, target: the idle slot}
  register: idle_slot

- name: Check the database as the application user
  health_check:
    probes:
      - id: db.connect
        type: postgresql
        host: db1.internal
        dbname: example_staging
        user: example_app
        password_key: app
        sslmode: verify-full
        ca_file: /etc/ssl/greenroom/ca.pem
        ssl: true
        tables: [tokens, user_cache]
    secrets: {app: "{{ vault_postgresql_app_password }}"}
  vars:
    ansible_python_interpreter: /opt/greenroom/venv/bin/python
"""

RETURN = r"""
evidence:
  description:
    - One record for each probe, those of O(first) first, then in the order of the list; last the record of O(whole).
    - Also there when the module fails after the probes ran.
  returned: when the list of probes is sound
  type: list
  elements: dict
  sample: [{id: verify.health.http, status: pass, expected: HTTP 200, observed: "HTTP 200; 4.2 ms", duration_ms: 6.1,
            started: "2026-11-20T09:12:44.120Z", detail: {probe: http, target: "http://127.0.0.1:8102/health", status: 200}}]
counts:
  description: How many records have which status.
  returned: when the list of probes is sound
  type: dict
  sample: {pass: 12, fail: 0, error: 0, no_evidence: 0, not_applicable: 0, not_run: 0}
problems:
  description: What is wrong with the list of probes, naming probe and key.
  returned: when the list is not sound
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import health_check

WHOLE = {
    "id": {"type": "str", "required": True},
    "target": {"type": "str", "required": True},
    "required": {"type": "list", "elements": "str", "default": []},
}


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "probes": {"type": "list", "elements": "dict", "required": True},
            "first": {"type": "list", "elements": "dict", "default": []},
            "whole": {"type": "dict", "options": WHOLE},
            "secrets": {"type": "dict", "default": {}, "no_log": True},
            "fail": {"type": "bool", "default": True},
            "parallel": {"type": "int", "default": 16},
        },
        supports_check_mode=True,
    )
    secrets = {key: str(value) for key, value in module.params["secrets"].items()}
    try:
        planned = health_check.plan(module.params["probes"], secrets)
        before = health_check.plan(module.params["first"], secrets) if module.params["first"] else []
    except health_check.SpecError as error:
        module.fail_json(msg="No probe was run: " + "; ".join(error.problems), problems=error.problems)
    evidence = health_check.run(before, secrets, module.params["parallel"]) if before else []
    stopped = bool(health_check.blockers(evidence))
    if not stopped:
        evidence += health_check.run(planned, secrets, module.params["parallel"])
    if module.params["whole"]:
        evidence.append(health_check.as_whole(evidence, **module.params["whole"]))
    result = {"changed": False, "evidence": evidence, "counts": health_check.counts(evidence)}
    blockers = health_check.blockers(evidence)
    if blockers and (stopped or module.params["fail"]):
        module.fail_json(msg=f"{len(blockers)} of {len(evidence)} probes did not pass:\n" + "\n".join(blockers), **result)
    module.exit_json(**result)


if __name__ == "__main__":
    main()
