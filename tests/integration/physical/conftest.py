"""The store, a site and its pgBackRest, for the tests of physical backups."""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup.pgbackrest import PgBackRest

sys.path.insert(0, str(Path(__file__).parent))  # pytest's importlib mode puts no folder of tests on the path
from physical_site import Site, Store


@pytest.fixture(scope="session")
def folders():
    """Makes folders that PostgreSQL's user may reach. Not below pytest's own: every start of pytest closes that one for other users."""
    base = Path(tempfile.mkdtemp(prefix="greenroom-physical-"))
    base.chmod(0o755)
    numbers = itertools.count()

    def make(name: str) -> Path:
        folder = base / f"{name}{next(numbers)}"
        folder.mkdir(mode=0o755)
        return folder

    yield make
    shutil.rmtree(base, ignore_errors=True)


@pytest.fixture(scope="session")
def ca_file(folders, authority):
    return Path(shutil.copy(authority.ca_file, folders("ca") / "ca.pem"))


@pytest.fixture(scope="session")
def store(folders, authority):
    cert, key = authority.issue("physical-store", "localhost", "127.0.0.1")
    made = Store(folders("store"), cert, key).start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def new_site(folders, store, ca_file):
    """Makes sites; all of them end with the module."""
    made = []

    def make(**more) -> Site:
        site = Site(folders("site"), store, ca_file)
        made.append(site)
        return site.create(**more)

    yield make
    for site in made:
        site.stop()


@pytest.fixture(scope="module")
def site(new_site):
    """A site with one full backup in each repository."""
    made = new_site()
    pgbackrest = PgBackRest(made.stanza, made.config)
    made.first = {repo: pgbackrest.backup(repo, "full") for repo in (1, 2)}
    return made


@pytest.fixture
def pgbackrest(site):
    return PgBackRest(site.stanza, site.config)


@pytest.fixture
def room(folders):
    """A folder for throw-away clusters that PostgreSQL's user may reach."""
    return folders("room")
