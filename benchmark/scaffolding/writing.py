"""Writing a new method: into this clone of the project, or as a package of its own.

Nothing that is there is overwritten, and either all files are written or none.
"""

import contextlib
import importlib.util
import keyword
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

import methods
from benchmark import handbook
from benchmark.errors import ContractError, StorageError, shorten
from benchmark.scaffolding import templates

# So that each text fits a line of the files.
_LONGEST_TEXT = 64
_LONGEST_NAME = 32


@dataclass(frozen=True)
class Wish:
    """What a new method shall be called.

    Attributes:
        name: lower-case words joined by hyphens.
        title: in tables; empty for the name's words.
        authors: of the method; none for now.

    Raises:
        ContractError: a name that no method or no Python module can have, or that is taken; or a
            text that a line of the files cannot hold.
    """

    name: str
    title: str = ""
    authors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses names and texts before anything is written."""
        if reason := methods.misnamed(self.name):
            raise ContractError(f"expected another name than '{shorten(self.name)}', got {reason}")
        if not self.stem.isidentifier() or keyword.iskeyword(self.stem):
            raise ContractError(
                f"expected a name that a Python module can have, got '{self.name}'; begin with a "
                "letter and take no word of the language"
            )
        if len(self.name) > _LONGEST_NAME:
            raise ContractError(
                f"expected at most {_LONGEST_NAME} letters of a name, got {len(self.name)}; a "
                "longer one does not fit the lines of its files"
            )
        if self.name in methods.names():
            raise ContractError(f"expected a new name, got '{self.name}', which is taken")
        for text in (self.title, *self.authors):
            if len(text) > _LONGEST_TEXT or not text.isprintable() or set(text) & set('"\\$|`'):
                raise ContractError(
                    f"expected at most {_LONGEST_TEXT} printable letters without quotes, got "
                    f"'{shorten(text)}'; write the rest into the file"
                )

    @property
    def stem(self) -> str:
        """The name of its module."""
        return self.name.replace("-", "_")

    @property
    def words(self) -> dict[str, str]:
        """What stands for the words of the templates."""
        title = self.title or " ".join(self.name.split("-")).capitalize()
        return {
            "name": self.name,
            "title": title,
            "kind": "".join(word.capitalize() for word in self.name.split("-")),
            "authors": _tuple(self.authors),
            "summary": "The smallest weights on the scale of their layer are removed, one shot.",
        }


def _tuple(texts: tuple[str, ...]) -> str:
    """Returns the source of a tuple of texts, laid out as ruff does."""
    if len(texts) < 2:
        return f'("{texts[0]}",)' if texts else "()"
    return "".join(["(\n", *(f'            "{text}",\n' for text in texts), "        )"])


def is_clone(root: Path) -> bool:
    """Returns whether a folder is the clone of the project that runs."""
    return Path(methods.__file__).resolve().parent == (root / "methods").resolve()


def write_here(root: Path, wish: Wish) -> list[Path]:
    """Writes a method into this clone: its file, its test, its page; returns their paths.

    Args:
        root: of the clone.
        wish: what it is called.

    Raises:
        ContractError: the folder is no clone that runs, or a file is there already.
        StorageError: the disk refuses; nothing is left.
    """
    if not is_clone(root):
        raise ContractError(
            f"expected the clone of the project that runs, got {shorten(str(root), 200)}; give "
            "--root, or --package FOLDER for a package of its own"
        )
    module = f"methods.{wish.stem}"
    method = _filled(
        templates.METHOD,
        wish,
        imports=templates.IMPORTS,
        decorator=f'@register("{wish.name}")\n',
    )
    test = _filled(
        templates.TEST,
        wish,
        imports=templates.TEST_IMPORTS,
        module=module,
        register="",
        contract="",
    )
    with _loaded(method, module, wish.name):
        page = handbook.page(wish.name)
        kind = methods.method(wish.name)
        works = handbook.in_words(kind, dict.fromkeys(handbook.declared(kind), ""))
        line = handbook.row(wish.name, kind.info.summary, works)
    pages = root / "docs" / "methods"
    made = {
        root / "methods" / f"{wish.stem}.py": method,
        root / "tests" / "unit" / f"test_method_{wish.stem}.py": test,
        pages / f"{wish.name}.md": page,
    }
    with _created(made):
        handbook.write_one(pages, wish.name, page, line)
    return [*made, pages / "README.md"]


def write_package(folder: Path, wish: Wish) -> list[Path]:
    """Writes a method as an installable package; returns the paths of its files.

    Args:
        folder: of the package; it must not be there, or be empty.
        wish: what the method is called.

    Raises:
        ContractError: the folder is there and not empty.
        StorageError: the disk refuses; nothing is left.
    """
    folder = folder.absolute()
    module = f"robustprune_{wish.stem}"
    method = _filled(templates.METHOD, wish, imports=templates.PACKAGE_IMPORTS, decorator="")
    test = _filled(
        templates.TEST,
        wish,
        imports=templates.PACKAGE_TEST_IMPORTS,
        module=module,
        register=_filled(templates.REGISTER, wish),
        contract=templates.CONTRACT,
    )
    made = {
        Path(module) / "__init__.py": method,
        Path(module) / "py.typed": "",
        Path("tests") / f"test_{wish.stem}.py": test,
        Path("pyproject.toml"): _filled(templates.PROJECT, wish, module=module),
        Path("README.md"): _filled(templates.README, wish, module=module),
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.is_dir() and any(folder.iterdir()):
            raise FileExistsError
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".new-method-") as scratch:
            whole = Path(scratch) / "package"
            for path, text in made.items():
                (whole / path).parent.mkdir(parents=True, exist_ok=True)
                (whole / path).write_text(text, encoding="utf-8")
            # An empty folder gives way; whatever else has come meanwhile does not.
            whole.rename(folder)
    except FileExistsError as error:
        raise ContractError(_taken(folder)) from error
    except OSError as error:
        raise StorageError(_refused(folder, error)) from error
    return [folder / path for path in made]


def _filled(template: str, wish: Wish, **words: str) -> str:
    return Template(template).substitute(wish.words | words)


@contextlib.contextmanager
def _loaded(source: str, module: str, name: str) -> Iterator[None]:
    """Loads a method's source as if it lay in its place already, and forgets it again."""
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / f"{name}.py"
        file.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(module, file)
        assert spec is not None and spec.loader is not None  # it is a Python file
        sys.modules[module] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[module])
            yield
        finally:
            del sys.modules[module]
            methods.forget(name)


@contextlib.contextmanager
def _created(files: Mapping[Path, str]) -> Iterator[None]:
    """Writes files that are not there; none of them is left if that, or what follows, fails."""
    done: list[Path] = []
    try:
        for path, text in files.items():
            _create(path, text)
            done.append(path)
        yield
    except BaseException:
        for path in done:
            path.unlink(missing_ok=True)
        raise


def _create(path: Path, text: str) -> None:
    """Writes a whole file that must not be there yet."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".new-method-") as scratch:
            whole = Path(scratch) / path.name
            whole.write_text(text, encoding="utf-8")
            os.link(whole, path)  # unlike a rename, it refuses a file that is there
    except FileExistsError as error:
        raise ContractError(_taken(path)) from error
    except OSError as error:
        raise StorageError(_refused(path, error)) from error


def _taken(path: Path) -> str:
    return (
        f"expected to write {shorten(str(path), 400)} anew, got something there; choose another "
        "name, or move it away"
    )


def _refused(path: Path, error: OSError) -> str:
    reason = error.strerror or type(error).__name__
    return (
        f"expected to write {shorten(str(path), 400)}, got '{reason}'; free space or choose a "
        "writable folder, then run again"
    )
