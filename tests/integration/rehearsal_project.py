"""An alembic project for a rehearsal, and what runs it: the virtual environment of the reference service's lock file."""

from __future__ import annotations

import ast
import contextlib
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from ansible.module_utils.greenroom.rehearsal import adapters, run
from ansible.module_utils.greenroom.rehearsal.ground import Options

ROOT = Path(__file__).resolve().parents[2]
CORPUS = ROOT / "tests" / "integration" / "migrations_corpus"
SERVICE = ROOT / "examples" / "lark-service"
HEAD = '''"""{doc}"""

from alembic import op

revision = "{name}"
down_revision = {below!r}


def upgrade() -> None:
{up}


def downgrade() -> None:
{down}
'''


@contextlib.contextmanager
def open_folder():
    """A folder that the server's user can enter; pytest's own are closed again whenever another pytest starts."""
    folder = Path(tempfile.mkdtemp(prefix="rehearsal-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def make_venv(folder: Path) -> Path:
    """The virtual environment of a release: alembic, SQLAlchemy, psycopg, asyncpg."""
    uv = [str(Path(sys.executable).with_name("uv"))]
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, str(folder)], check=True)
    subprocess.run(
        [*uv, "pip", "install", "-q", "--python", str(folder), "--require-hashes", "-r", str(SERVICE / "requirements.txt")], check=True
    )
    return folder


class Project:
    """A release's folder with revisions, and its rehearsal."""

    def __init__(self, folder: Path, venv: Path, scratch: Path):
        self.folder, self.scratch, self.newest = folder, scratch, None
        self.versions = folder / "src" / "migrations" / "versions"
        self.versions.mkdir(parents=True)
        (folder / "venv").symlink_to(venv)
        shutil.copy(SERVICE / "migrations" / "env.py", folder / "src" / "migrations" / "env.py")
        (folder / "src" / "alembic.ini").write_text("[alembic]\nscript_location = %(here)s/migrations\npath_separator = os\n")
        (folder / "src" / "shop").mkdir()
        (folder / "src" / "shop" / "models.py").write_text('COLUMN = "channel"\n')

    def take(self, *files: Path) -> Project:
        """Copy revisions of the corpus."""
        for file in files:
            shutil.copy(file, self.versions)
        return self

    def revise(self, name: str, up: list[str], down: list[str], doc: str = "a change", below: str | None = None) -> Project:
        """Write a revision over the newest one; SQL statements."""

        def body(statements: list[str]) -> str:
            return "\n".join(f"    op.execute({statement!r})" for statement in statements) or "    pass"

        text = HEAD.format(doc=doc, name=name, below=below or self.newest, up=body(up), down=body(down))
        (self.versions / f"{name}.py").write_text(text)
        self.newest = name
        return self

    def adapter(self, **more) -> adapters.AlembicAdapter:
        return adapters.AlembicAdapter(str(self.folder), **more)

    def rehearse(self, current: list[str] | None = None, controls: int = 1, released: dict | None = None, **options) -> dict:
        """The manifest."""
        return run.rehearse(
            self.adapter(), self.scratch, Options(roles=("app",), **options), current=current, controls=controls, released=released
        )


def entry(manifest: dict, revision: str) -> dict:
    """A revision's entry."""
    return next(one for one in manifest["revisions"] if one["revision"] == revision)


def codes(one: dict) -> set[str]:
    """The codes of a revision's findings."""
    return {each["code"] for each in one["findings"]}


def expected(file: Path) -> str:
    """What a revision of the corpus says should be found."""
    tree = ast.parse(file.read_text())
    return next(node.value.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "EXPECT")
