"""Backups that are proved: taken with a fingerprint, fetched from where they lie, restored into a throw-away cluster, compared."""
