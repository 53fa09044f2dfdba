"""Values as operators write them: "1m30s", "10MiB", "${env:NAME}". Text in, values out; only ${file:} looks outside.

tables.py turns units into numbers where an annotation asks for it; config.py replaces references in every string.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

DURATIONS = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
"""In the order in which they may follow each other: "1h30m"."""
SIZES = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "B": 1, "": 1}  # fmt: skip
"""With an i binary, with a B alone decimal; the bare letter is binary, as in systemd's units and nginx's files."""

LARGEST = 2.0**63
"""Beyond what an integer of TOML can be."""

NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
DURATION = "".join(rf"(?:{NUMBER}{unit} ?)?" for unit in DURATIONS)
SIZE = rf"{NUMBER} ?({'|'.join(SIZES)})"
REFERENCE = re.compile(r"\$(?:\$|\{(env|file):([^}]*)\})?")


def seconds(text: str) -> float | None:
    """ "1m30s" -> 90.0, "7" -> 7.0; None: that is no duration."""
    if re.fullmatch(NUMBER, text):
        return float(text)
    match = re.fullmatch(DURATION, text)
    if match is None or not any(match.groups()):
        return None
    return sum(
        float(number) * DURATIONS[unit] for number, unit in zip(match.groups(), DURATIONS, strict=True) if number
    )


def size(text: str) -> int | None:
    """ "64KiB" -> 65536; None: that is no size, or none that there is."""
    match = re.fullmatch(SIZE, text)
    number = float(match[1]) * SIZES[match[2]] if match else LARGEST
    return int(number) if number < LARGEST else None


def interpolate(text: str, environ: Mapping[str, str], directory: Path) -> str:
    """Replaces ${env:NAME}, ${env:NAME:-default}, ${file:PATH} (relative to ``directory``, without its last newline)
    and $$. What comes in this way is not looked into again. Raises ValueError in words for the operator."""

    def resolve(match: re.Match[str]) -> str:
        kind, name = match.groups()
        if kind == "env":
            return _variable(match[0], name, environ)
        if kind == "file":
            return _content(match[0], directory / name)
        if match[0] == "$$":
            return "$"
        raise ValueError("a lone $: write $$ for a dollar sign, ${env:NAME} or ${file:PATH} for what stands elsewhere")

    return REFERENCE.sub(resolve, text)


def _variable(reference: str, name: str, environ: Mapping[str, str]) -> str:
    """As in a shell: the default is for what is not set and for what is empty."""
    name, has_default, default = name.partition(":-")
    value = environ.get(name)
    if has_default and not value:
        return default
    if value is None:
        raise ValueError(f"{reference}: the variable is not set; set it, or write ${{env:{name}:-default}}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # other bytes arrive as lone surrogates, and would be an error far from here
        raise ValueError(f"{reference}: not UTF-8") from error
    return value


def _content(reference: str, path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n")
    except OSError as error:
        raise ValueError(f"{reference}: {error.strerror}") from error
    except ValueError as error:  # not UTF-8, or a NUL in the path
        raise ValueError(f"{reference}: {error}") from error
