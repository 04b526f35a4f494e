"""Finds a Chromium for the tests of the pages, or installs Debian's.

    python tests/browser/chromium.py

prints the path of the one that the tests then drive.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

VARIABLE = "ROBUSTPRUNE_BROWSER"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ADVICE = (
    "needs Chromium: install the package `chromium`, or name an existing Chrome or Chromium in "
    f"{VARIABLE}"
)


def found() -> str:
    """Returns the browser that the environment names, else one on the path, else nothing."""
    named = os.environ.get(VARIABLE, "")
    return named or next((path for path in map(shutil.which, NAMES) if path), "")


def install() -> None:
    """Installs Debian's Chromium where this user may, and says nothing where not."""
    if shutil.which("apt-get") is None:
        return
    root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if root and shutil.which("sudo") is None:
        return
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        # What apt says goes beside the answer, which is all that the caller reads.
        done = subprocess.run([*root, "apt-get", "-q", *arguments], stdout=sys.stderr, check=False)
        if done.returncode:
            return


def main() -> None:
    """Prints the path of a browser, or ends with one line that says how to get one."""
    if not found():
        install()
    path = found()
    if not path:
        sys.exit(ADVICE)
    if not Path(path).is_file():
        sys.exit(f"expected a browser at {VARIABLE}, got no file {path}; correct or unset it")
    print(path)


if __name__ == "__main__":
    main()
