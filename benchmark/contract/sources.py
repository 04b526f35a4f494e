"""Where a method to be examined lies: a registered name, a file, or a package's folder."""

import importlib
import importlib.util
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import methods
from benchmark.errors import BenchmarkError, ContractError, lookup, shorten
from benchmark.files import read_toml

_LARGEST_PROJECT_FILE = 1 << 20


@dataclass(frozen=True)
class Source:
    """A method, and what makes it known.

    Attributes:
        spelling: its name and settings; empty where only loading the file tells.
        file: a Python file that registers it, or empty.
        folders: that go on the import path.
        entries: entry points of a package that is not installed, by name.
    """

    spelling: str
    file: str = ""
    folders: tuple[str, ...] = ()
    entries: tuple[tuple[str, str], ...] = ()


def source_of(target: str, name: str = "") -> Source:
    """Returns the source that a user means; nothing is loaded.

    Args:
        target: a method with its settings, a `.py` file, or a folder with a pyproject.toml.
        name: which method of a file or folder, where there are several.

    Raises:
        UnknownName: no such method.
        ContractError: a file or folder that holds no method.
    """
    path = Path(target)
    known = target.partition(":")[0] in methods.names()
    if not known and path.is_dir():
        return _package(path.resolve(), name)
    if not known and (path.is_file() or path.suffix == ".py"):
        return _file(path.resolve(), name)
    if not known:
        lookup("method", target.partition(":")[0], {key: key for key in methods.names()})
    return Source(target)


def _file(path: Path, name: str) -> Source:
    if not path.is_file() or path.suffix != ".py":
        raise ContractError(f"expected a Python file, got '{shorten(str(path), 200)}'")
    if path.parent == Path(methods.__file__).resolve().parent:
        return Source(name or path.stem.replace("_", "-"))
    return Source(name, file=str(path))


def _package(folder: Path, name: str) -> Source:
    """Returns the method of a package, read from its pyproject.toml.

    Raises:
        ContractError: no such file, or no entry point in it, or several and no name.
    """
    entries = _entries(folder / "pyproject.toml")
    if not entries or (len(entries) > 1 and name not in entries):
        listed = shorten(", ".join(sorted(entries)), 200) or "none"
        raise ContractError(
            f'expected one entry point of the group "{methods.GROUP}" in {folder.name}, got '
            f"{listed}; " + ("give --name" if entries else "`new-method --package` writes one")
        )
    roots = [place for place in (folder / "src", folder) if place.is_dir()]
    return Source(
        name or next(iter(entries)),
        folders=tuple(str(root) for root in roots),
        entries=tuple(sorted(entries.items())),
    )


def _entries(path: Path) -> dict[str, str]:
    shown = shorten(str(path), 200)
    try:
        content: object = read_toml(path, _LARGEST_PROJECT_FILE)
        for key in ("project", "entry-points", methods.GROUP):
            content = content.get(key, {}) if isinstance(content, Mapping) else {}
        found = dict(content) if isinstance(content, Mapping) else {}
    except FileNotFoundError as error:
        raise ContractError(
            f"expected a package with {shown}, found none; `new-method --package` writes one"
        ) from error
    except BenchmarkError as error:
        raise ContractError(str(error)) from error
    texts = {str(key): str(value) for key, value in found.items()}
    if any(not text.isprintable() for pair in texts.items() for text in pair):
        raise ContractError(f"expected entry points of one line in {shown}, got others")
    return texts


def load(source: Source, scratch: Path) -> str:
    """Loads what a source names, in this process, and returns the spelling of its method.

    Args:
        source: what a user means.
        scratch: an empty folder, for what an installer would write.

    Raises:
        BenchmarkError: it does not load, or registers no method, or several.
    """
    sys.path[:0] = source.folders
    if source.entries:
        _announce(source.entries, scratch)
    if source.file:
        return _run(Path(source.file), source.spelling)
    methods.configured(source.spelling)
    return source.spelling


def _announce(entries: tuple[tuple[str, str], ...], site: Path) -> None:
    """Does what an installer does: metadata on the path."""
    info = site / "checked-1.0.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: checked\nVersion: 1.0.0\n")
    lines = [f"{name} = {value}\n" for name, value in entries]
    (info / "entry_points.txt").write_text("".join([f"[{methods.GROUP}]\n", *lines]))
    sys.path.insert(0, str(site))
    importlib.invalidate_caches()


def _run(path: Path, spelling: str) -> str:
    before = set(methods.names())
    name = f"checked_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ContractError(f"expected a Python file, got {shorten(path.name)}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (BenchmarkError, KeyboardInterrupt):
        raise
    except BaseException as error:  # a file may fail in any way while it loads
        raise ContractError(
            f"expected {shorten(path.name)} to load, got {methods.told(error)}"
        ) from error
    found = [key for key in methods.names() if key not in before]
    own = [key for key in found if key not in methods.controls()]
    if spelling.partition(":")[0] in own:
        return spelling
    if len(own) != 1 or spelling:
        raise ContractError(
            f"expected {shorten(path.name)} to register {spelling or 'one method'}, got "
            f"{', '.join(own) or 'none'}; decorate the class with @register, or give --name"
        )
    return own[0]
