"""Fixtures of the tests of logical backups; a test file takes them with `from backup_fixtures import …`."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from ansible.module_utils.greenroom.backup import dump
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster
from backup_site import S3, Site, fill

__all__ = ["_site", "backup", "site", "source", "stores"]


def _folder(name):
    """Not below pytest's own folder: each start of a pytest closes that one to other users."""
    folder = Path(tempfile.mkdtemp(prefix=f"greenroom-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    folder.chmod(0o755)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    return folder


@pytest.fixture(scope="module")
def source():
    """The cluster that is backed up, with the database `shop`."""
    folder = _folder("source")
    with ScratchCluster(folder / "cluster") as cluster:
        fill(cluster, folder)
        yield cluster


@pytest.fixture(scope="module")
def stores(authority):
    """A running S3 store over TLS."""
    server = S3(_folder("s3"), authority)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def _site(source, stores, authority):
    return Site(_folder("site"), source, stores, authority.ca_file)


@pytest.fixture
def site(_site):
    """The site, with empty places."""
    _site.clear()
    return _site


@pytest.fixture
def backup(site):
    """The result of a good backup in both places."""
    return dump.run_dump(site.config())
