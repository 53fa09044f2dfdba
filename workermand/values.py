"""Values as operators write them: "30s", "10MiB", "${env:NAME}". Pure, except that ${file:} reads a file."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
BYTES = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30,
         "KB": 10**3, "MB": 10**6, "GB": 10**9}  # fmt: skip
DURATION = re.compile(r"(?:\d+(?:\.\d+)?\s*(?:ms|s|m|h|d)\s*)+")
REFERENCE = re.compile(r"\$(?:\$|\{(env|file):([^}]*)\})|\$")


def seconds(text: str) -> float | None:
    """ "1m30s" -> 90.0; None when it is no duration."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not DURATION.fullmatch(text):
        return None
    return sum(float(number) * SECONDS[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", text))


def size(text: str) -> int | None:
    """ "64KiB" -> 65536; None when it is no size."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)", text.strip())
    if match is None or match[2] not in BYTES:
        return None
    return int(float(match[1]) * BYTES[match[2]])


def interpolate(value: Any, environ: Mapping[str, str]) -> Any:
    """Replaces ${env:NAME}, ${env:NAME:-default}, ${file:PATH} and $$ in every string of ``value``. Raises ValueError
    in words for the operator."""
    if isinstance(value, str):
        return REFERENCE.sub(lambda match: _resolve(match, environ), value) if "$" in value else value
    if isinstance(value, list):
        return [interpolate(item, environ) for item in value]
    if isinstance(value, dict):
        return {key: interpolate(item, environ) for key, item in value.items()}
    return value


def _resolve(match: re.Match[str], environ: Mapping[str, str]) -> str:
    if match[0] == "$$":
        return "$"
    if match[1] == "env":
        name, default, fallback = match[2].partition(":-")
        if value := environ.get(name, ""):
            return value
        if default:
            return fallback
        raise ValueError(f"{match[0]}: the variable {name} is not set; set it, or write ${{env:{name}:-default}}")
    if match[1] == "file":
        try:
            return Path(os.path.expanduser(match[2])).read_text().removesuffix("\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ValueError(f"{match[0]}: {getattr(error, 'strerror', None) or error}") from error
    raise ValueError("a lone $; write $$ for a dollar sign, ${env:NAME} or ${file:PATH} for a reference")
