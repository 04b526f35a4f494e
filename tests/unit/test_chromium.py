"""Where the tests of the pages look for a browser."""

import subprocess
import sys
from pathlib import Path

FINDER = Path(__file__).parents[1] / "browser" / "chromium.py"


def found(path: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Looks for a browser where there is nothing else, not even a way to install one."""
    return subprocess.run(
        [sys.executable, str(FINDER)],
        env={"PATH": str(path), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def executable(path: Path) -> Path:
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_a_browser_on_the_path_is_found(tmp_path: Path) -> None:
    browser = executable(tmp_path / "google-chrome")
    assert found(tmp_path).stdout == f"{browser}\n"


def test_the_named_one_comes_first(tmp_path: Path) -> None:
    executable(tmp_path / "chromium")
    other = executable(tmp_path / "other")
    assert found(tmp_path, ROBUSTPRUNE_BROWSER=str(other)).stdout == f"{other}\n"


def test_without_a_browser_one_line_says_what_to_install(tmp_path: Path) -> None:
    done = found(tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert "install the package `chromium`" in line and "ROBUSTPRUNE_BROWSER" in line


def test_a_named_browser_that_is_not_there_is_refused(tmp_path: Path) -> None:
    executable(tmp_path / "chromium")
    done = found(tmp_path, ROBUSTPRUNE_BROWSER="/nowhere/chrome")
    assert done.returncode == 1
    assert done.stderr.startswith("expected a browser at ROBUSTPRUNE_BROWSER, got no file /nowhere")


def test_it_is_installed_where_that_is_possible(tmp_path: Path) -> None:
    # A stand-in that "installs" what it is asked for, and talks while it does.
    apt = executable(tmp_path / "apt-get")
    browser = tmp_path / "chromium"
    apt.write_text(
        "#!/bin/sh\necho talk\n"
        f'[ "$2" = update ] || {{ echo "#!/bin/sh" > {browser}; /bin/chmod 755 {browser}; }}\n'
    )
    sudo = executable(tmp_path / "sudo")
    sudo.write_text('#!/bin/sh\nshift\nexec "$@"\n')
    done = found(tmp_path)
    assert done.stdout == f"{browser}\n"
