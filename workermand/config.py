"""TOML to ServerSpec. Every complaint names the file, the key path, what was found, what is allowed, and the nearest
right key. Nothing is opened or made here but the files that are read; what the machine must have is places.py's.

The steps of load(): read (with includes) -> interpolate -> merge [defaults] under each worker -> turn units into
numbers -> convert worker by worker into the frozen structs of spec.py.
"""

from __future__ import annotations

import difflib
import os
import re
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli

from workermand import address, places, values
from workermand.errors import ConfigError
from workermand.spec import LogSpec, ServerSpec, Spec, WorkerSpec

S = TypeVar("S", bound=Spec)

TOP = ("server", "protocols", "defaults", "worker")
SERVER_KEYS = ("name", "app_path", "run_dir", "state_dir", "include", "log", "control_group")
WORKER_KEYS = (*(name for name in WorkerSpec.__struct_fields__ if name != "name"), "protocol")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MODULE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(:[A-Za-z_]\w*)?")


def load(file: str, environ: Mapping[str, str] | None = None) -> ServerSpec:
    """Reads and validates ``file`` and what it includes. Raises ConfigError."""
    environ = os.environ if environ is None else environ
    path = Path(file).absolute()
    document = _interpolated(path.name, _read(path), environ)
    _check_keys(path.name, "", document, TOP)
    server = _table(path.name, "server", document.get("server", {}))
    _check_keys(path.name, "server.", server, SERVER_KEYS)
    _include(path, server, document, environ)
    return _build(path, server, document, environ)


def from_command_line(
    uri: str, handler: str, count: int | str = 1, *, name: str = "workermand", environ: Mapping[str, str] | None = None
) -> ServerSpec:
    """`workermand run URI HANDLER`: one worker, handlers from the current directory."""
    document = {"worker": {"main": {"listen": uri, "handler": handler, "count": count}}}
    server = {"name": name, "app_path": [os.getcwd()]}
    return _build(None, server, document, os.environ if environ is None else environ)


def locate(file: str, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """(name, run_dir) for workermanctl, which must reach a daemon whose file is broken by now: nothing else is looked
    at, and a file that is no TOML still has its name."""
    environ = os.environ if environ is None else environ
    path = Path(file).absolute()
    server: Any = {}
    try:
        server = tomli.loads(path.read_text()).get("server", {})
        server = values.interpolate({key: server[key] for key in ("name", "run_dir") if key in server}, environ)
    except (OSError, ValueError, AttributeError):
        server = {}
    name = str(server.get("name", path.stem))
    run_dir = server.get("run_dir")
    return name, places.run_dir(name, str(path.parent / run_dir) if run_dir else None, environ)


# ---------------------------------------------------------------------- reading


def _read(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomli.load(file)
    except OSError as error:
        raise ConfigError(str(path), error.strerror or str(error), "name the file with -c FILE") from error
    except (tomli.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(path.name, f"not TOML: {error}") from error


def _interpolated(where: str, document: dict[str, Any], environ: Mapping[str, str], path: str = "") -> dict[str, Any]:
    """Key by key, so that a complaint can name it."""
    result: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            result[key] = _interpolated(where, value, environ, f"{path}{key}.")
            continue
        try:
            result[key] = values.interpolate(value, environ)
        except ValueError as error:
            raise ConfigError(f"{where}: {path}{key}", str(error)) from error
    return result


def _include(path: Path, server: dict[str, Any], document: dict[str, Any], environ: Mapping[str, str]) -> None:
    """Adds the workers and protocols of the included files, in lexical order, to ``document``."""
    pattern = server.pop("include", None)
    if pattern is None:
        return
    patterns = [pattern] if isinstance(pattern, str) else _strings(path.name, "server.include", pattern)
    origin = {(kind, name): path.name for kind in ("worker", "protocols") for name in document.get(kind, {})}
    for included in sorted({found for one in patterns for found in path.parent.glob(one)}):
        more = _interpolated(included.name, _read(included), environ)
        _check_keys(included.name, "", more, ("worker", "protocols"))
        for kind, entries in more.items():
            for name, entry in _table(included.name, kind, entries).items():
                if (kind, name) in origin:
                    raise ConfigError(
                        f"{included.name}: {kind}.{name}",
                        f"defined in {origin[kind, name]} already",
                        "rename one of them",
                    )
                origin[kind, name] = included.name
                document.setdefault(kind, {})[name] = entry


# ---------------------------------------------------------------------- building


def _build(
    path: Path | None, server: dict[str, Any], document: dict[str, Any], environ: Mapping[str, str]
) -> ServerSpec:
    where = path.name if path else "command line"
    parent = path.parent if path else Path.cwd()
    name = server.get("name", path.stem if path else "workermand")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{where}: server.name", f"found {name!r}", "expected letters, digits, . _ - (64 at most)")
    given = {
        key: _optional_string(where, f"server.{key}", server.get(key))
        for key in ("run_dir", "state_dir", "control_group")
    }
    run_dir = places.run_dir(name, str(parent / given["run_dir"]) if given["run_dir"] else None, environ)
    state_dir = places.state_dir(name, str(parent / given["state_dir"]) if given["state_dir"] else None, environ)
    protocols = {
        scheme: _string(where, f"protocols.{scheme}", target)
        for scheme, target in _table(where, "protocols", document.get("protocols", {})).items()
    }
    _check_protocols(where, protocols)
    defaults = _table(where, "defaults", document.get("defaults", {}))
    workers = {
        worker: _worker(where, worker, _merge(defaults, _table(where, f"worker.{worker}", table)), run_dir, protocols)
        for worker, table in _table(where, "worker", document.get("worker", {})).items()
    }
    if not workers:
        raise ConfigError(where, "there is no [worker.NAME]", "a daemon needs at least one")
    _check_addresses(where, workers)
    app_path = _strings(where, "server.app_path", server.get("app_path", ["."]))
    return ServerSpec(
        name=name,
        file=str(path) if path else None,
        app_path=tuple(os.path.normpath(parent / entry) for entry in app_path),
        run_dir=run_dir,
        state_dir=state_dir,
        log=_log(where, parent, server.get("log", {})),
        control_group=places.check_group(f"{where}: server.control_group", given["control_group"]),
        protocols=protocols,
        workers=workers,
    )


def _log(where: str, parent: Path, table: Any) -> LogSpec:
    spec = _convert(where, "server.log", _table(where, "server.log", table), LogSpec)
    files = {key: str(parent / value) for key in ("file", "stdout_file") if (value := getattr(spec, key))}
    return msgspec.structs.replace(spec, **files)


def _worker(where: str, name: str, table: dict[str, Any], run_dir: str, protocols: dict[str, str]) -> WorkerSpec:
    key = f"worker.{name}"
    if not NAME.fullmatch(name):
        raise ConfigError(f"{where}: {key}", "not a name", "expected letters, digits, . _ - (64 at most)")
    _check_keys(where, f"{key}.", table, WORKER_KEYS)
    if "handler" not in table:
        raise ConfigError(
            f"{where}: {key}.handler", "missing", 'expected a module or class, as in "apps.echo" or "apps.chat:Chat"'
        )
    table = dict(table)
    protocol = _optional_string(where, f"{key}.protocol", table.pop("protocol", None))
    uris = table.get("listen", [])
    uris = [uris] if isinstance(uris, str) else _strings(where, f"{key}.listen", uris)
    table["listen"] = []
    if table.get("count") == "auto":
        table["count"] = len(os.sched_getaffinity(0))
    if "unix_mode" in table:
        table["unix_mode"] = _mode(where, f"{key}.unix_mode", table["unix_mode"])
    spec = _convert(where, key, {"name": name, **table}, WorkerSpec)
    if not MODULE.fullmatch(spec.handler):
        raise ConfigError(f"{where}: {key}.handler", f'found "{spec.handler}"', 'expected "module" or "module:Class"')
    try:
        listen = tuple(
            address.parse(uri, run_dir=run_dir, worker_name=name, protocol=protocol, schemes=protocols) for uri in uris
        )
    except ConfigError as error:
        raise ConfigError(f"{where}: {error.where}", error.what, error.hint) from error
    spec = msgspec.structs.replace(spec, listen=listen)
    places.check_users(f"{where}: {key}", spec)
    return spec


def _merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Tables key by key, everything else whole."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        merged[key] = _merge(base[key], value) if both else value
    return merged


def _check_protocols(where: str, protocols: dict[str, str]) -> None:
    for scheme, target in protocols.items():
        if scheme in address.SCHEMES or not re.fullmatch(r"[a-z][a-z0-9]*", scheme):
            raise ConfigError(
                f"{where}: protocols.{scheme}", "not a free scheme", "expected a new name, [a-z][a-z0-9]*"
            )
        if not MODULE.fullmatch(target) or ":" not in target:
            raise ConfigError(f"{where}: protocols.{scheme}", f'found "{target}"', 'expected "module:Class"')


def _check_addresses(where: str, workers: Mapping[str, WorkerSpec]) -> None:
    taken: dict[object, str] = {}
    for name, worker in workers.items():
        for listen in worker.listen:
            if listen.address in taken:
                other = taken[listen.address]
                also = "twice" if other == name else f"and so does worker.{other}"
                raise ConfigError(
                    f"{where}: worker.{name}.listen", f"listens on {listen.uri}, {also}", "give each its own address"
                )
            taken[listen.address] = name


# ---------------------------------------------------------------------- complaints


def _check_keys(where: str, path: str, table: Mapping[str, Any], allowed: Iterable[str]) -> None:
    for key in table:
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, 1)
            hint = f'did you mean "{near[0]}"?' if near else f"there are {', '.join(sorted(allowed))}"
            raise ConfigError(f"{where}: {path}{key}", "unknown key", hint)


def _table(where: str, key: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: {key}", f"found {_show(value)}", "expected a table")
    return value


def _string(where: str, key: str, value: Any) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: {key}", f"found {_show(value)}", "expected a string")
    return value


def _optional_string(where: str, key: str, value: Any) -> str | None:
    return None if value is None else _string(where, key, value)


def _strings(where: str, key: str, value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where}: {key}", f"found {_show(value)}", "expected a list of strings")
    return value


def _mode(where: str, key: str, value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"0?[0-7]{3}", value):
        raise ConfigError(f"{where}: {key}", f"found {_show(value)}", 'expected an octal string such as "0660"')
    return int(value, 8)


def _show(value: Any) -> str:
    """As it stands in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else repr(value)


# ---------------------------------------------------------------------- conversion


def _convert(where: str, key: str, table: dict[str, Any], kind: type[S]) -> S:
    plain = _without_units(where, key, table, kind)
    try:
        return msgspec.convert(plain, kind, strict=True)
    except msgspec.ValidationError as error:
        raise _explain(where, key, plain, kind, str(error)) from error


def _without_units(where: str, key: str, table: dict[str, Any], kind: type[Any]) -> dict[str, Any]:
    """Durations and sizes become numbers, guided by the annotations of the struct; unknown keys are named here."""
    hints = typing.get_type_hints(kind, include_extras=True)
    _check_keys(where, f"{key}.", table, hints)
    result = dict(table)
    for name, value in table.items():
        hint = hints[name]
        if isinstance(hint, type) and issubclass(hint, Spec):
            result[name] = _without_units(where, f"{key}.{name}", _table(where, f"{key}.{name}", value), hint)
        elif isinstance(value, str) and (unit := _unit(hint)):
            number = values.seconds(value) if unit == "seconds" else values.size(value)
            if number is None:
                example = '"30s", "1m30s", "500ms"' if unit == "seconds" else '"64KiB", "10MiB"'
                raise ConfigError(
                    f"{where}: {key}.{name}", f'found "{value}"', f"expected a number or a string such as {example}"
                )
            result[name] = number
    return result


def _unit(hint: Any) -> str | None:
    for meta in getattr(hint, "__metadata__", ()):
        if isinstance(meta, msgspec.Meta) and meta.extra_json_schema:
            return str(meta.extra_json_schema.get("unit"))
    return None


def _explain(where: str, key: str, table: Any, kind: type[Any], message: str) -> ConfigError:
    """msgspec says "Expected `int`, got `str` - at `$.limits.per_ip`": the value found is put beside it."""
    expected, _, at = message.partition(" - at `$")
    path = [part for part in re.split(r"[.\[\]]+", at.strip("`")) if part]
    value = table
    for part in path:
        value = (
            value[int(part)]
            if isinstance(value, list)
            else value.get(part, value)
            if isinstance(value, dict)
            else value
        )
    allowed = re.sub(r", got `.*`", "", expected).replace("Expected", "expected").replace("`", "")
    if path[-1:] == ["count"]:
        allowed = 'expected an integer of 1 or more, or "auto"'
    return ConfigError(f"{where}: {'.'.join([key, *path])}", f"found {_show(value)}, {allowed}")
