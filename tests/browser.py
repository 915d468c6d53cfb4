"""The browser that tests look at pages with. `python -m tests.browser` installs it: Debian's Chromium, as root."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests import apt

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PACKAGES = ("chromium", "fonts-liberation")
# WebGL without a graphics card; as root Chromium starts without its sandbox only
_OPTIONS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--enable-unsafe-swiftshader", "--hide-scrollbars")
_NO_NETWORK = ("--host-resolver-rules=MAP * ~NOTFOUND", "--disable-background-networking", "--disable-component-update")
_LOGGED = ("--enable-logging=stderr", "--virtual-time-budget=60000")
PATIENCE = 120.0  # seconds


def browser() -> str | None:
    """The program; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def obstacle() -> str:
    """Why pages cannot be looked at here, with what would help; empty when they can be."""
    return "" if browser() else "no Chromium found; install with: python -m tests.browser (Debian, as root)"


def look(page: Path, *options: str) -> tuple[str, list[str]]:
    """Open `page`; returns what the browser prints on stdout, and what the page has written on its console."""
    program = browser()
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *_OPTIONS, *_NO_NETWORK, *_LOGGED, f"--user-data-dir={profile}", *options, page.as_uri()]
        done = subprocess.run(command, capture_output=True, encoding="utf8", errors="replace", timeout=PATIENCE)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "GL Driver Message" not in line]
    return done.stdout, said


def install() -> int:
    """Install the browser if it is missing; returns 0 when there is one."""
    if browser() is None:
        apt.install(*PACKAGES)
    return apt.exit_code("The tests in a browser", obstacle())


if __name__ == "__main__":
    sys.exit(install())
