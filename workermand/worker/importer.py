"""Handler code is imported from its source, every time: what a reload starts is what stands in the file.

Python matches bytecode to source by whole seconds and size, so that of twenty quick edits of a file sixteen were served
stale. Below ``app_path`` no bytecode is read and none is written; what is installed (the standard library,
site-packages) keeps its own, also where it lies below ``app_path``, as a .venv in a project does. process.py calls
install() in the child, before the first import of a user's module.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from collections.abc import Sequence
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, SourceFileLoader
from types import CodeType

_PATHS = sysconfig.get_paths()
LIBRARIES = frozenset(
    os.path.realpath(path)
    for path in (
        *(_PATHS[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")),
        *site.getsitepackages(),
        site.getusersitepackages(),
    )
)
"""Where installed modules lie. Found once, before the fork."""


class SourceOnlyLoader(SourceFileLoader):
    """Compiles the file as it stands; looks at no bytecode and leaves none."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        return self.source_to_code(self.get_data(path), path)


def install(app_path: Sequence[str]) -> None:
    """Puts ``app_path`` in front of the import path, source-only. Once per process."""
    roots = [os.path.realpath(root) for root in app_path]

    def is_ours(path: str) -> bool:
        """The nearest root that holds ``path`` says whose it is."""
        real = os.path.realpath(path)
        return max((root for root in (*roots, *LIBRARIES) if _is_below(real, root)), key=len, default="") in roots

    def hook(path: str) -> FileFinder:
        """ImportError says: ask the next hook."""
        if not os.path.isdir(path) or not is_ours(path):
            raise ImportError
        return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (SourceOnlyLoader, SOURCE_SUFFIXES))

    sys.path[:0] = app_path
    sys.path_hooks.insert(0, hook)
    # The master may have looked there itself: `python -m workermand` puts the current directory on the path. What it
    # knows of other directories is kept: to free that would cost each child half a megabyte of memory of its own.
    for path in filter(is_ours, list(sys.path_importer_cache)):
        del sys.path_importer_cache[path]


def _is_below(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip(os.sep) + os.sep)
