from __future__ import annotations

from workermand.errors import (
    CloseReason,
    ConfigError,
    ControlError,
    EndOfInput,
    ExitCode,
    ProtocolError,
    WorkermandError,
)


def test_a_configuration_error_reads_as_one_line() -> None:
    assert str(ConfigError("w.toml: worker.a.cuont", "unknown key", 'did you mean "count"?')) == (
        'w.toml: worker.a.cuont: unknown key; did you mean "count"?'
    )
    assert str(ConfigError("w.toml", "not TOML")) == "w.toml: not TOML"


def test_a_violation_keeps_what_was_good() -> None:
    error = ProtocolError("too long", ["a", "b"], close_reason=CloseReason.PACKAGE_TOO_BIG)
    assert (error.reason, error.messages, error.close_reason) == ("too long", ["a", "b"], CloseReason.PACKAGE_TOO_BIG)
    assert ProtocolError("bad").close_reason is CloseReason.PROTOCOL_ERROR


def test_an_orderly_end_is_no_violation() -> None:
    end = EndOfInput("goodbye", ["a"], farewell=b"bye")
    assert (end.reason, end.messages, end.farewell) == ("goodbye", ["a"], b"bye")
    assert end.close_reason is CloseReason.PEER_CLOSED
    assert not isinstance(end, ProtocolError)
    assert isinstance(ProtocolError("bad", farewell=b"1002"), EndOfInput)


def test_one_root() -> None:
    for error in (ConfigError("a", "b"), ProtocolError("a"), ControlError("a")):
        assert isinstance(error, WorkermandError)


def test_exit_codes_are_a_contract() -> None:
    assert {code.name: code.value for code in ExitCode} == {
        "OK": 0, "FAILED": 1, "LOAD_FAILED": 3, "PRIVILEGES": 77, "CONFIG": 78, "CRASHED": 250,
    }  # fmt: skip
