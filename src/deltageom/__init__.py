"""Do different offline reasoning losses make the same weight update? `deltageom.api` is the Python interface."""

import importlib
from typing import Any

__version__ = "0.2.0"

API = ("Grade", "UserError", "compare", "grade", "method", "statistics")


def __getattr__(name: str) -> Any:
    """`deltageom.compare` and the others of api.py, imported when they are first asked for: numpy takes a while.

    Python asks for every other name too, in `from deltageom import files`; that must not import api.py, for numpy
    reads how many threads it may use when it is imported, and a command sets that.
    """
    if name not in API:
        raise AttributeError(f"module 'deltageom' has no attribute {name!r}")
    return getattr(importlib.import_module("deltageom.api"), name)
