"""Scripts and style sheets that pages link to: our own, and libraries from installed packages.

Libraries are copied from the packages that carry them, so that a page asks nobody for anything.
Pages are opened from disk, where browsers load no modules: the table library, which comes as one,
is wrapped into a plain script.
"""

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from benchmark.errors import ContractError

OWN = Path(__file__).parent / "static"

# What each script of a library is made of: package, and files within it.
TABLES = ("itables", ("html/dt_bundle.js",))
CHARTS = ("bokeh", ("server/static/js/bokeh.min.js", "server/static/js/bokeh-api.min.js"))

# The list of names that ends a module.
_EXPORTS = re.compile(r"export\s*\{(?P<names>[^{}]{1,2000})\}\s*;?")


@cache
def assets() -> dict[str, bytes]:
    """Returns path under the site → content of every script and style sheet.

    Raises:
        ContractError: a library is missing, or not in the form that is known here.
    """
    found = {f"static/{path.name}": path.read_bytes() for path in OWN.iterdir() if path.is_file()}
    found["static/tables.js"] = plain(_read(*TABLES), "tables").encode()
    found["static/charts.js"] = _read(*CHARTS).encode()
    return dict(sorted(found.items()))


def _read(package: str, names: tuple[str, ...]) -> str:
    """Returns files of an installed package, one after the other; the package is not run."""
    spec = find_spec(package)
    folders = [] if spec is None else list(spec.submodule_search_locations or [])
    paths = [Path(folder) / name for folder in folders[:1] for name in names]
    if not paths or not all(path.is_file() for path in paths):
        raise ContractError(
            f"expected {package} with {names[0]}, found none; install it again with "
            f"`pip install --force-reinstall {package}`"
        )
    return "\n;\n".join(path.read_text(encoding="utf-8") for path in paths)


def plain(module: str, name: str) -> str:
    """Returns a module without imports as a plain script that puts its exports into one global.

    Args:
        module: its source.
        name: of the global.

    Raises:
        ContractError: it does not end in a list of exports.
    """
    found = list(_EXPORTS.finditer(module))
    if len(found) != 1:
        raise ContractError(
            f"expected a module with one list of exports for {name}, got {len(found)}; install "
            "the version in constraints.txt"
        )
    pairs = [entry.split(" as ") for entry in found[0]["names"].split(",")]
    members = ", ".join(f'"{pair[-1].strip()}": {pair[0].strip()}' for pair in pairs)
    body = module[: found[0].start()] + f"globalThis.{name} = {{{members}}};"
    return f"(() => {{\n{body}{module[found[0].end() :]}\n}})();\n"
