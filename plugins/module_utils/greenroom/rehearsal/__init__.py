"""The rehearsal of a migration: what every revision does to a schema and its data, up, down and up again, on a scratch copy."""
