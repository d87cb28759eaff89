#!/usr/bin/python
"""Makes or drops a scratch database and virtual host; thin over ansible.module_utils.greenroom.scratch_servers."""

from __future__ import annotations

DOCUMENTATION = r"""
module: scratch_servers
short_description: Make or drop the scratch database and virtual host of a run of the service's own tests
description:
  - Runs on the servers' own host. The names say whose it is and of which run; what earlier runs have left is dropped first.
  - Nothing is made while the live database lets every role in.
  - What it makes is gone at the end of the run, so it reports no change for it.
options:
  state:
    description:
      - V(present) drops what earlier runs have left and makes the scratch database and virtual host of this run.
      - V(absent) drops those of all runs of this service, and fails if something is left.
    type: str
    choices: [present, absent]
    default: present
  service:
    description: Name of the service.
    type: str
    required: true
  run_id:
    description: The run they belong to.
    type: str
    required: true
  password:
    description: Password of the scratch role and user, letters and digits. Needed to make them.
    type: str
  database:
    description: The PostgreSQL server; leave it out if the service has none.
    type: dict
    suboptions:
      host:
        description: Folder of its socket, or its address.
        type: str
        default: /var/run/postgresql
      port:
        description: Its port.
        type: int
        default: 5432
      user:
        description: Its administrator.
        type: str
        default: postgres
      password:
        description: That role's password; none on a socket.
        type: str
      ca_file:
        description: Authority of the server's certificate. With an address, the connection needs TLS and the right name.
        type: path
      live:
        description: Name of the service's live database, which must be closed to the scratch role.
        type: str
        required: true
      extensions:
        description: Extensions that the service's schema needs.
        type: list
        elements: str
        default: []
      connections:
        description: Connections the scratch role may have.
        type: int
        default: 20
  broker:
    description: The RabbitMQ server; leave it out if the service has none.
    type: dict
    suboptions:
      api:
        description: Its management API.
        type: str
        default: http://127.0.0.1:15672/api
      netrc:
        description: File with its administrator's login.
        type: path
        default: /etc/greenroom/rabbitmq.netrc
attributes:
  check_mode:
    description: Says what V(absent) would drop; makes nothing.
    support: full
author: Greenroom
"""

EXAMPLES = r"""
- name: Make the scratch database and virtual host
  scratch_servers:
    service: example-service
    run_id: "{{ run_id }}"
    password: "{{ scratch_password }}"
    database: {live: example_staging, extensions: [pgcrypto]}
    broker: {}

- name: Drop them
  scratch_servers:
    state: absent
    service: example-service
    run_id: "{{ run_id }}"
    database: {live: example_staging}
    broker: {}
"""

RETURN = r"""
dropped:
  description: Databases, roles, virtual hosts and users that were (in check mode would be) dropped.
  returned: always
  type: list
  elements: str
  sample: [example_service_scratch_20261120t091244z_a1b2c3]
names:
  description: What this run's are called, with the keys database, role, vhost, user.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.greenroom import scratch_servers as library
from ansible.module_utils.greenroom.scratch import names

DATABASE = {
    "host": {"type": "str", "default": "/var/run/postgresql"},
    "port": {"type": "int", "default": 5432},
    "user": {"type": "str", "default": "postgres"},
    "password": {"type": "str", "no_log": True},
    "ca_file": {"type": "path"},
    "live": {"type": "str", "required": True},
    "extensions": {"type": "list", "elements": "str", "default": []},
    "connections": {"type": "int", "default": 20},
}
BROKER = {
    "api": {"type": "str", "default": "http://127.0.0.1:15672/api"},
    "netrc": {"type": "path", "default": "/etc/greenroom/rabbitmq.netrc"},
}
ARGUMENTS = {
    "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
    "service": {"type": "str", "required": True},
    "run_id": {"type": "str", "required": True},
    "password": {"type": "str", "no_log": True},
    "database": {"type": "dict", "options": DATABASE},
    "broker": {"type": "dict", "options": BROKER},
}


def database_of(given: dict | None) -> library.Database | None:
    """The server of the module's option `database`."""
    if not given:
        return None
    socket = given["host"].startswith("/")
    tls = {} if socket else {"sslmode": "verify-full", "sslrootcert": given["ca_file"] or "system"}
    login = {"host": given["host"], "port": given["port"], "user": given["user"], **tls}
    if given["password"]:
        login["password"] = given["password"]
    return library.Database(login, as_user=given["user"] if socket else None, live=given["live"])


def main() -> None:
    """Check the arguments, make or drop."""
    module = AnsibleModule(argument_spec=ARGUMENTS, supports_check_mode=True, required_if=[("state", "present", ["password"])])
    p = module.params
    try:
        made = names(p["service"], p["run_id"])
        database = database_of(p["database"])
        broker = library.Broker(p["broker"]["api"], p["broker"]["netrc"]) if p["broker"] is not None else None
        servers = [server for server in (database, broker) if server]
        result = library.absent(servers, p["service"], dry=module.check_mode)
        if result["left"]:
            module.fail_json(
                msg=f"a test run has left things behind: {', '.join(result['left'])}. Drop databases, roles, virtual hosts and users of "
                "these names by hand, or run --tags verify again: it does.",
                dropped=result["dropped"], names=made,
            )  # fmt: skip
        if p["state"] == "present" and not module.check_mode:
            secret = {**made, "password": p["password"]}
            if database:
                database.make(secret, p["database"]["connections"], p["database"]["extensions"])
            if broker:
                broker.make(secret)
    except (library.ScratchError, ValueError) as error:
        module.fail_json(msg=str(error), dropped=[], names={})
    module.exit_json(changed=False, dropped=result["dropped"], names=made)


if __name__ == "__main__":
    main()
