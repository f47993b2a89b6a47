"""Version and commit on the foot of every page."""

import subprocess
import tomllib
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.config import Config

ROOT = Path(__file__).resolve().parents[2]


def version() -> str:
    """The project's version, from the one place that states it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return settings["project"]["version"]


def git(*arguments: str) -> str:
    """What git answers; nothing where there is no git, no repository or no commit."""
    try:
        return subprocess.run(
            ["git", "-C", str(ROOT), *arguments],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def edition() -> str:
    """For example "Version 0.1.0, commit 1a2b3c4d (with local changes)"."""
    text = f"Version {version()}"
    if commit := git("rev-parse", "--short=8", "HEAD"):
        text += f", commit {commit}"
        if git("status", "--porcelain", "--untracked-files=no"):
            text += " (with local changes)"
    return text


def put_on_pages(app: Sphinx, config: Config) -> None:
    """Hand the version to Sphinx and the edition to the theme's footer."""
    config.version = config.release = version()
    config.html_theme_options["extra_footer"] = f'<p class="edition">{edition()}</p>'


def setup(app: Sphinx) -> dict:
    """Register with Sphinx."""
    app.connect("config-inited", put_on_pages)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
