"""TOML to ServerSpec. Every complaint names the file, the key, what was found, what is allowed, and the nearest right
key. Nothing is opened or made here but the files that are read: what the machine must have is places.py's business.

The steps of load(): read the file and its includes -> replace references in strings -> hold [defaults] and [server] to
their annotations -> merge [defaults] under each worker -> hold each worker to its annotations (tables.py) -> check what
only the whole can tell (addresses, users). The master calls it at the start and at every reload.
"""

from __future__ import annotations

import datetime
import glob
import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli
from msgspec import Meta
from msgspec.structs import replace

from workermand import address, places, tables, values
from workermand.errors import ConfigError
from workermand.spec import KeyPair, ListenSpec, LogSpec, Processes, ServerSpec, SessionSpec, WorkerSpec
from workermand.tables import Place

# ---------------------------------------------------------------------- what may stand in a file

Strings = str | list[str]
TOP: dict[str, Any] = {"server": dict, "protocols": dict, "defaults": dict, "worker": dict}
INCLUDED = ("protocols", "worker")
"""What an included file may hold: what is there once belongs into the main one."""
SERVER: dict[str, Any] = {
    "name": str,
    "app_path": Strings,
    "run_dir": str,
    "state_dir": str,
    "include": Strings,
    "log": LogSpec,
    "control_group": str,
}
WORKER: dict[str, Any] = {
    **{key: hint for key, hint in tables.hints_of(WorkerSpec).items() if key != "name"},
    "listen": Strings,
    "protocol": str,
    "count": Processes | Literal["auto"],
    "unix_mode": Annotated[str, Meta(pattern="^0?[0-7]{3}$", description='an octal string such as "0660"')],
}
"""As spec.py has them, but for those that an operator writes in another form."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
MODULE = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*(:[^\W\d]\w*)?")
NAME_ALLOWED = "expected letters, digits, . _ -, beginning with one of the first two, 64 at most"


@dataclass(frozen=True, slots=True)
class Source:
    """Where settings come from: what complaints call it, what relative paths are relative to, and the default name."""

    label: str
    directory: Path
    name: str
    file: str | None = None


# ---------------------------------------------------------------------- public


def load(file: str, environ: Mapping[str, str] | None = None) -> ServerSpec:
    """Reads and validates ``file`` and what it includes. Raises ConfigError."""
    environ = os.environ if environ is None else environ
    path = Path(file).absolute()
    source = Source(path.name, path.parent, path.stem, str(path))
    document = _read(path, path.name, environ)
    server = _server_fields(source, document)
    documents = {path.name: document}
    for label in _included(source, server.pop("include", [])):
        documents[label] = _read(path.parent / label, label, environ)
        _check_included(Place(label), documents[label])
    return _build(source, server, documents, environ)


def from_command_line(
    uri: str,
    handler: str,
    count: int | str = 1,
    *,
    name: str | None = None,
    environ: Mapping[str, str] | None = None,
) -> ServerSpec:
    """`workermand run URI HANDLER`: one worker, named like its module, with handlers from the current directory.
    Raises ConfigError."""
    worker = handler.partition(":")[0].rpartition(".")[2] or "worker"
    source = Source("command line", Path.cwd(), name or worker)
    document = {"worker": {worker: {"listen": uri, "handler": handler, "count": count}}}
    return _build(source, {}, {source.label: document}, os.environ if environ is None else environ)


# ---------------------------------------------------------------------- files


def _read(path: Path, label: str, environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        document = tomli.loads(path.read_bytes().decode("utf-8-sig"))  # Windows writes a BOM
        result: dict[str, Any] = _interpolated(Place(label), document, environ, path.parent)
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ConfigError(label, f"not UTF-8 (at line {line})", "save it in this encoding") from error
    except ValueError as error:  # tomli's complaints name line and column
        raise ConfigError(label, f"not TOML: {error}") from error
    except RecursionError as error:
        raise ConfigError(label, "tables or lists are nested too deeply") from error
    return result


def _interpolated(place: Place, value: Any, environ: Mapping[str, str], directory: Path) -> Any:
    if isinstance(value, dict):
        return {key: _interpolated(place / key, entry, environ, directory) for key, entry in value.items()}
    if isinstance(value, list):
        return [_interpolated(place, entry, environ, directory) for entry in value]
    if not isinstance(value, str) or "$" not in value:
        return value
    try:
        return values.interpolate(value, environ, directory)
    except ValueError as error:
        raise ConfigError(str(place), str(error)) from error


def _included(source: Source, patterns: str | list[str]) -> list[str]:
    """The files in lexical order, relative to the main one, which may lie among them."""
    found: set[str] = set()
    for pattern in _strings(patterns):
        files = glob.glob(pattern, root_dir=source.directory)
        if not files and not set("*?[").intersection(pattern):
            where = Place(source.label) / "server" / "include"
            raise ConfigError(str(where), f'there is no file "{pattern}"', "make it, or drop it here")
        found.update(files)
    by_path = {os.path.realpath(source.directory / label): label for label in sorted(found)}
    by_path.pop(os.path.realpath(str(source.file)), None)
    return list(by_path.values())


def _check_included(place: Place, document: dict[str, Any]) -> None:
    for key in document:
        if key in TOP and key not in INCLUDED:
            raise ConfigError(str(place / key), "in an included file", "that belongs into the file that includes it")
    tables.check_keys(place, document, dict.fromkeys(INCLUDED))


def _collect(documents: Mapping[str, dict[str, Any]], kind: str) -> dict[str, tuple[Place, Any]]:
    """The entries of all files' [``kind``], each with its place."""
    found: dict[str, tuple[Place, Any]] = {}
    for label, document in documents.items():
        place = Place(label) / kind
        for name, entry in tables.expect_table(place, document.get(kind, {})).items():
            if name in found:
                raise ConfigError(str(place / name), f"defined in {found[name][0].file} already", "rename one of them")
            found[name] = place / name, entry
    return found


# ---------------------------------------------------------------------- building


def _server_fields(source: Source, document: dict[str, Any]) -> dict[str, Any]:
    tables.check_keys(Place(source.label), document, TOP)
    return tables.fields(Place(source.label) / "server", document.get("server", {}), SERVER)


def _build(
    source: Source, server: dict[str, Any], documents: Mapping[str, dict[str, Any]], environ: Mapping[str, str]
) -> ServerSpec:
    place = Place(source.label) / "server"
    name = server.get("name", source.name)
    if not NAME.fullmatch(name):
        raise ConfigError(str(place / "name"), f'found "{name}"', NAME_ALLOWED)
    run_dir = places.run_dir(name, places.below(source.directory, server.get("run_dir")), environ)
    address.check_path_length(str(place / "run_dir"), _control_socket(run_dir))
    places.check_group(str(place / "control_group"), server.get("control_group"))
    protocols = _protocols(documents)
    workers = _workers(source, documents, run_dir, protocols)
    return ServerSpec(
        name=name,
        file=source.file,
        app_path=_app_path(source, server.get("app_path", ".")),
        run_dir=run_dir,
        state_dir=places.state_dir(name, places.below(source.directory, server.get("state_dir")), environ),
        log=_log(source, server.get("log", LogSpec())),
        control_group=server.get("control_group"),
        protocols=protocols,
        workers=workers,
    )


def _app_path(source: Source, value: str | list[str]) -> tuple[str, ...]:
    paths = tuple(os.path.normpath(source.directory / path) for path in _strings(value))
    for path in paths:
        if not os.path.exists(path):
            where = Place(source.label) / "server" / "app_path"
            raise ConfigError(str(where), f"{path} is not there", "make it, or drop it here")
    return paths


def _log(source: Source, log: LogSpec) -> LogSpec:
    return replace(
        log, file=places.below(source.directory, log.file), stdout_file=places.below(source.directory, log.stdout_file)
    )


def _protocols(documents: Mapping[str, dict[str, Any]]) -> dict[str, str]:
    protocols = {}
    for scheme, (place, target) in _collect(documents, "protocols").items():
        if scheme in address.SCHEMES or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
            raise ConfigError(str(place), "not a free scheme", "expected a new name of a-z, 0-9, + . -")
        if not isinstance(target, str) or not address.CLASS.fullmatch(target):
            raise ConfigError(str(place), f'found {tables.shown(target)}, expected "module:Class"')
        protocols[scheme] = target
    return protocols


def _workers(
    source: Source, documents: Mapping[str, dict[str, Any]], run_dir: str, protocols: Mapping[str, str]
) -> dict[str, WorkerSpec]:
    """[defaults] is held to the rules by itself first, so that its mistakes are found where they stand."""
    defaults = documents[source.label].get("defaults", {})
    place = Place(source.label) / "defaults"
    _worker(place, "defaults", {"handler": "defaults", **tables.expect_table(place, defaults)}, run_dir, protocols)
    workers = {}
    control = ListenSpec(uri="", transport="unix", protocol="", path=_control_socket(run_dir))
    taken = [("the daemon's control socket", control, False)]
    for name, (place, table) in _collect(documents, "worker").items():
        if not NAME.fullmatch(name):
            raise ConfigError(str(place), "not a name for a worker", NAME_ALLOWED)
        merged = _merge(defaults, tables.expect_table(place, table))
        worker = _worker(place, name, merged, run_dir, protocols)
        _check_proxy_protocol(place, worker)
        workers[name] = _with_tls(place, worker, source.directory)
        _take_addresses(place, workers[name], taken)
    if not workers:
        raise ConfigError(source.label, "there is no [worker.NAME]", "a daemon needs at least one")
    return workers


def _worker(place: Place, name: str, table: dict[str, Any], run_dir: str, protocols: Mapping[str, str]) -> WorkerSpec:
    fields = tables.fields(place, table, WORKER)
    if "handler" not in fields:
        hint = 'expected a module or a class, as in "apps.echo" or "apps.chat:Chat"'
        raise ConfigError(str(place / "handler"), "missing", hint)
    if not MODULE.fullmatch(fields["handler"]):
        raise ConfigError(str(place / "handler"), f'found "{fields["handler"]}", expected "module" or "module:Class"')
    fields["listen"] = _listen(place, name, fields, run_dir, protocols)
    for variable in fields.get("env", {}):
        if not variable or {"=", "\0"}.intersection(variable):
            raise ConfigError(str(place / "env" / variable), "not a name for a variable", "expected one without =")
    if fields.get("count") == "auto":
        fields["count"] = len(os.sched_getaffinity(0))
    if "unix_mode" in fields:
        fields["unix_mode"] = int(fields["unix_mode"], 8)
    for network in fields.get("trusted_proxies", ()):
        _check_network(place / "trusted_proxies", network)
    _check_plain(place, table)
    spec = WorkerSpec(name=name, **fields)
    _check_session(place / "session", spec.session)
    places.check_users(str(place), spec)
    return spec


def _check_proxy_protocol(place: Place, worker: WorkerSpec) -> None:
    if not worker.proxy_protocol:
        return
    for listen in worker.listen:
        if listen.transport == "udp":
            hint = "only streams begin with a PROXY header: give it a worker of its own"
            raise ConfigError(str(place / "proxy_protocol"), f'"{listen.uri}" is no stream', hint)
        if listen.transport == "tcp" and not worker.trusted_proxies:
            hint = 'name the proxies whose PROXY header is believed: trusted_proxies = ["10.0.0.5"]'
            raise ConfigError(str(place / "trusted_proxies"), "missing, with proxy_protocol = true", hint)


def _check_network(place: Place, network: str) -> None:
    try:
        ipaddress.ip_network(network)
    except ValueError as error:
        hint = 'expected addresses and networks: "127.0.0.1", "10.0.0.0/8"'
        raise ConfigError(str(place), str(error), hint) from None


def _check_session(place: Place, session: SessionSpec) -> None:
    """Not only its values: what browsers refuse, they refuse without a word."""
    if session.store != "file" and not session.store.startswith(("redis://", "rediss://", "unix://")):
        hint = 'expected "file" or an address such as "redis://127.0.0.1:6379/0"'
        raise ConfigError(str(place / "store"), "no store of this kind", hint)  # not shown: it may have a password
    is_secure = session.secure is True
    if session.same_site == "None" and not is_secure:
        raise ConfigError(str(place / "same_site"), '"None" without TLS: browsers drop the cookie', "set secure = true")
    if session.cookie.startswith("__Secure-") and not is_secure:
        raise ConfigError(str(place / "cookie"), "__Secure- without TLS: browsers drop the cookie", "set secure = true")
    if session.cookie.startswith("__Host-") and not (is_secure and session.path == "/" and not session.domain):
        hint = 'set secure = true and path = "/", and no domain'
        raise ConfigError(str(place / "cookie"), "__Host- is for the whole of one host, over TLS", hint)


def _check_plain(place: Place, value: object) -> None:
    """Settings also travel to living processes, as msgpack, and must arrive as they are at a fork."""
    if isinstance(value, dict):
        for key, entry in value.items():
            _check_plain(place / key, entry)
    elif isinstance(value, list):
        for entry in value:
            _check_plain(place, entry)
    elif isinstance(value, (datetime.date, datetime.time)):
        raise ConfigError(str(place), f"found the date or time {value}", "write it as a string, in quotes")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise ConfigError(str(place), f"found {tables.shown(value)}", "an integer has 64 bits; write it as a string")


def _listen(
    place: Place, name: str, fields: dict[str, Any], run_dir: str, protocols: Mapping[str, str]
) -> tuple[ListenSpec, ...]:
    """Takes `protocol` out of ``fields``: a ListenSpec has it."""
    protocol = fields.pop("protocol", None)
    if protocol is not None:
        address.check_protocol(str(place / "protocol"), protocol, protocols)
    try:
        return tuple(
            address.parse(uri, run_dir=run_dir, worker_name=name, protocol=protocol, schemes=protocols)
            for uri in _strings(fields.get("listen", []))
        )
    except ConfigError as error:
        raise ConfigError(str(place / "listen"), error.what, error.hint) from None


def _with_tls(place: Place, worker: WorkerSpec, directory: Path) -> WorkerSpec:
    """Which listeners `tls` is for: those of https:// and wss://; if there are none, all."""
    tls, listens = worker.tls, worker.listen
    encrypted = [listen for listen in listens if listen.tls]
    if tls is None:
        if encrypted:
            hint = 'expected tls = {cert = "FILE.pem", key = "FILE.pem"} beside it'
            raise ConfigError(str(place / "listen"), f'"{encrypted[0].uri}" needs a certificate', hint)
        return worker
    for host, pair in tls.pairs.items():
        if not pair.cert:
            at = place / "tls" / "sni" / host if host else place / "tls"
            raise ConfigError(str(at / "cert"), "missing", "expected the PEM file of a certificate and its chain")
    if tls.verify_client and tls.ca is None:
        raise ConfigError(str(place / "tls.ca"), "missing", "verify_client needs the PEM file of whom to believe")
    if tls.ca is not None and not tls.verify_client:
        hint = 'set verify_client = true or "optional", or drop `ca`'
        raise ConfigError(str(place / "tls.ca"), "nobody is asked for a certificate", hint)
    if not encrypted:
        for listen in listens:
            if listen.transport == "udp":
                hint = "there is no TLS over udp: give it a worker of its own, or name the others https:// or wss://"
                raise ConfigError(str(place / "tls"), f'"{listen.uri}" cannot be encrypted', hint)
        listens = tuple(replace(listen, tls=True) for listen in listens)
    pairs = {host: _absolute(pair, directory) for host, pair in tls.pairs.items()}
    first = pairs.pop("")
    tls = replace(tls, cert=first.cert, key=first.key, ca=places.below(directory, tls.ca), sni=pairs)
    return replace(worker, listen=listens, tls=tls)


def _absolute(pair: KeyPair, directory: Path) -> KeyPair:
    return KeyPair(cert=places.below(directory, pair.cert) or "", key=places.below(directory, pair.key))


def _take_addresses(place: Place, worker: WorkerSpec, taken: list[tuple[str, ListenSpec, bool]]) -> None:
    """``taken`` has who listens where, and whether with reuse_port: so they may overlap, 0.0.0.0 and 127.0.0.1."""
    for listen in worker.listen:
        for other, its, shares in taken:
            if listen.address == its.address:
                again = "twice" if other == place.key else f"is the address of {other} too"
                what = f'"{listen.uri}" {again}'
            elif address.overlap(listen, its) and not (shares and worker.reuse_port):
                what = f'"{listen.uri}" overlaps "{its.uri}" of {other}'
            else:
                continue
            raise ConfigError(str(place / "listen"), what, "give each its own")
        taken.append((place.key, listen, worker.reuse_port))


def _control_socket(run_dir: str) -> str:
    return os.path.join(run_dir, "control.sock")


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Tables key by key, everything else whole."""
    merged = {**base, **over}
    for key in base.keys() & over.keys():
        if isinstance(base[key], dict) and isinstance(over[key], dict):
            merged[key] = _merge(base[key], over[key])
    return merged


def _strings(value: str | Iterable[str]) -> list[str]:
    return [value] if isinstance(value, str) else list(value)
