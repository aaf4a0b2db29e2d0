"""The table library of the page, taken from the pip package itables at build time, its licences with it."""

import importlib.metadata
import importlib.util
import re
from pathlib import Path

from mixbench.errors import RecordError

_PACKAGE = "itables"
_BUNDLE = "html/dt_bundle.js"
_EXPORTS = re.compile(r"export\s*\{([^}]*)\}\s*;?")
_DEFAULT = re.compile(r"(\w+) as default")


def datatables_script(script: str) -> str:
    """Return DataTables followed by `script`, an expression of a function that is called with DataTables.

    The bundle is an ES module that ends with its licence notices, which stay. Raises RecordError if the installed
    itables is built otherwise.
    """
    bundle = _folder().joinpath(_BUNDLE).read_text(encoding="utf-8")
    exports = _EXPORTS.findall(bundle)
    name = _DEFAULT.search(exports[0]) if len(exports) == 1 else None
    if name is None or "</script" in bundle.lower():
        raise RecordError(f"{library()} has another bundle than expected: install itables 2.9.1")
    # Inside a script element these four characters change how HTML looks for its end; the escape means the same to
    # JavaScript.
    harmless = _EXPORTS.sub("", bundle).replace("<!--", r"\x3C!--")
    return f"{harmless}\n({script})({name[1]});\n"


def _folder() -> Path:
    # Importing the package, as importlib.resources does, imports pandas.
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise RecordError(f"{_PACKAGE} is not installed: install itables 2.9.1")
    return Path(spec.origin).parent


def library() -> str:
    """Return the package and its version."""
    return f"{_PACKAGE} {importlib.metadata.version(_PACKAGE)}"
