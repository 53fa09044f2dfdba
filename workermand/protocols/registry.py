"""From the name of a protocol to its class: a built-in one, a scheme of [protocols], or "module:Class".

Called in the child, once per listener: a name that is not built in imports the user's code. The master never does.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

from workermand.errors import LoadError
from workermand.protocols.base import Protocol
from workermand.protocols.custom import adapt
from workermand.protocols.frame import Frame
from workermand.protocols.handshake import Upgrading
from workermand.protocols.http import Http
from workermand.protocols.raw import Raw
from workermand.protocols.text import Text

BUILT_IN: dict[str, type[Protocol]] = {cls.name: cls for cls in (Raw, Text, Frame, Http, Upgrading)}


def resolve(name: str, schemes: Mapping[str, str]) -> type[Protocol]:
    """The class for ``name``: call it with the package limit in bytes for each connection's own object.

    ``schemes`` is the [protocols] table. Raises LoadError, with a sentence for the operator.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]
    target = schemes.get(name, name)
    module, colon, attribute = target.partition(":")
    if not (module and colon and attribute):
        raise LoadError(_unknown(name, target, schemes))
    return adapt(_load(name, module, attribute), name if name in schemes else attribute)


def _unknown(name: str, target: str, schemes: Mapping[str, str]) -> str:
    if target != name:
        return f'protocol {name}: [protocols] must name it as "module:Class", not "{target}"'
    known = [*BUILT_IN, *schemes]
    nearest = difflib.get_close_matches(name, known, n=1)
    hint = f'; did you mean "{nearest[0]}"?' if nearest else ""
    return f'unknown protocol "{name}"; there is {", ".join(known)}, or "module:Class"{hint}'


def _load(name: str, module: str, attribute: str) -> Any:
    try:
        loaded = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise LoadError(f"protocol {name}: importing {module} failed: {type(error).__name__}: {error}") from error
    if not hasattr(loaded, attribute):
        raise LoadError(f"protocol {name}: {module} has no {attribute}")
    return getattr(loaded, attribute)
