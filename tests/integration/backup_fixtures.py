"""Fixtures of the tests of logical backups; a test file takes them with `from backup_fixtures import …`."""

from __future__ import annotations

import os
import shutil

import pytest
from ansible.module_utils.greenroom.backup import dump
from ansible.module_utils.greenroom.backup.scratch_cluster import ScratchCluster
from backup_site import S3, Site, fill

__all__ = ["_site", "backup", "site", "source", "stores"]


def _folder(tmp_path_factory, name):
    folder = tmp_path_factory.mktemp(name)
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    for each in (folder, folder.parent, folder.parent.parent):
        each.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The cluster that is backed up, with the database `shop`."""
    folder = _folder(tmp_path_factory, "source")
    with ScratchCluster(folder / "cluster") as cluster:
        fill(cluster, folder)
        yield cluster


@pytest.fixture(scope="module")
def stores(tmp_path_factory, authority):
    """A running S3 store over TLS."""
    server = S3(_folder(tmp_path_factory, "s3"), authority)
    try:
        yield server.start()
    finally:
        server.stop()


@pytest.fixture(scope="module")
def _site(tmp_path_factory, source, stores, authority):
    return Site(_folder(tmp_path_factory, "site"), source, stores, authority.ca_file)


@pytest.fixture
def site(_site):
    """The site, with empty places."""
    _site.clear()
    return _site


@pytest.fixture
def backup(site):
    """The result of a good backup in both places."""
    return dump.run_dump(site.config())
