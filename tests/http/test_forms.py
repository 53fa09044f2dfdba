"""forms: queries, multipart bodies, uploads in memory and on disk, and that nothing stays behind."""

from __future__ import annotations

import gc
from pathlib import Path
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.http import forms
from workermand.http.forms import IN_MEMORY, MOST_TEXT, Upload, parse_multipart, parse_query
from workermand.http.policy import Refusal

TYPE = 'multipart/form-data; boundary="xx"'


@pytest.fixture(autouse=True)
def _in_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def part(content: bytes, disposition: str, *headers: str) -> bytes:
    lines = "\r\n".join(["--xx", f"Content-Disposition: form-data; {disposition}", *headers])
    return lines.encode() + b"\r\n\r\n" + content + b"\r\n"


def test_queries() -> None:
    assert parse_query("") == {}
    assert parse_query("a=1&&b&c=&=d&a=2") == {"a": ["1", "2"], "b": "", "c": "", "": "d"}
    assert parse_query("x[]=1") == {"x": ["1"]}
    assert parse_query("x=0&x[]=1") == {"x": ["0", "1"]}
    assert parse_query(b"%zz=%ff+%2B") == {"%zz": "\ufffd +"}


@given(st.dictionaries(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")), max_size=10))
def test_what_a_browser_encodes_is_decoded(values: dict[str, str]) -> None:
    values = {name: value for name, value in values.items() if not name.endswith("[]")}
    assert parse_query(urlencode(values)) == values


def test_too_many_fields() -> None:
    assert len(parse_query("&".join(f"a{n}" for n in range(1000)))) == 1000
    with pytest.raises(Refusal) as refusal:
        parse_query("&" * 1001)
    assert refusal.value.status == 413


def test_fields_and_files() -> None:
    body = b"".join(
        [
            part("grüße".encode(), 'name="text"'),
            part(b"1", 'name="n"'),
            part(b"2", 'name="n"'),
            part(b"\x00\xff\r\n--x", 'name="file"; filename="C:\\dir\\../a b.bin"', "Content-Type: image/png"),
            part(b"", 'name="none"; filename=""', "Content-Type: application/octet-stream"),
            part(b"1", 'name="many[]"; filename="1"'),
            part(b"2", 'name="many[]"; filename="2"'),
            b"--xx--\r\n",
        ]
    )
    values, files = parse_multipart(body, TYPE)
    assert values == {"text": "grüße", "n": ["1", "2"]}
    assert set(files) == {"file", "many"}
    (upload,) = files["file"]
    assert (upload.name, upload.type, upload.size) == ("a b.bin", "image/png", 7)
    assert upload.read() == upload.open().read() == b"\x00\xff\r\n--x"
    assert [file.read() for file in files["many"]] == [b"1", b"2"]


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"", TYPE, 400),
        (b"junk", TYPE, 400),
        (part(b"1", 'name="a"'), TYPE, 400),
        (b"--xx--\r\n", "multipart/form-data", 400),
        (b"--xx--\r\n", 'multipart/form-data; boundary=""', 400),
        (b"--xx\r\n\r\nno head\r\n--xx--\r\n", TYPE, 400),
        (b"--xx\r\nContent-Disposition: attachment\r\n\r\n\r\n--xx--\r\n", TYPE, 400),
        (part(b"", 'name="a"', *[f"X-{n}: y" for n in range(20)]) + b"--xx--\r\n", TYPE, 413),
        (part(b"", 'name="a"') * 1025 + b"--xx--\r\n", TYPE, 413),
    ],
)
def test_what_cannot_be_read(body: bytes, content_type: str, status: int) -> None:
    with pytest.raises(Refusal) as refusal:
        parse_multipart(body, content_type)
    assert refusal.value.status == status


def upload_of(content: bytes) -> Upload:
    _, files = parse_multipart(part(content, 'name="f"; filename="f"') + b"--xx--\r\n", TYPE)
    return files["f"][0]


@pytest.mark.parametrize("size", [10, IN_MEMORY, IN_MEMORY + 1, 3 * IN_MEMORY + 7])
def test_an_upload_goes_with_its_request(tmp_path: Path, size: int) -> None:
    content = (b"0123456789abcde" * (size // 15 + 1))[:size]
    upload = upload_of(content)
    assert len(list(tmp_path.iterdir())) == (1 if size > IN_MEMORY else 0)
    assert upload.size == size
    assert upload.read() == content
    with upload.open() as file:
        assert file.read() == content
    assert upload.path.read_bytes() == content
    assert upload.path.stat().st_mode & 0o777 == 0o600
    assert len(list(tmp_path.iterdir())) == 1
    del upload
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("size", [10, IN_MEMORY + 1])
def test_a_moved_upload_stays(tmp_path: Path, size: int) -> None:
    upload = upload_of(b"x" * size)
    assert repr(upload) == f"<Upload {upload.name!r}, {size} bytes of {upload.type}>"
    upload.move(tmp_path / "at first")
    target = upload.move(tmp_path / "kept")
    assert upload.path == target
    assert upload.read() == b"x" * size
    del upload
    gc.collect()
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert target.stat().st_size == size


def test_an_upload_that_somebody_else_has_removed(tmp_path: Path) -> None:
    upload = upload_of(b"x")
    upload.path.unlink()
    del upload
    gc.collect()


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..\\..\\passwd", "C:\\x\\passwd", "pass\0wd"])
def test_a_name_has_no_directories(name: str) -> None:
    assert Upload(name, "").name == "passwd"


def test_cookies_of_several_lines() -> None:
    assert forms.parse_cookies(["a=1; b=2", "a=3; c=%zz"]) == {"a": "1", "b": "2", "c": "%zz"}


def test_many_uploads_take_no_more_memory_than_one(tmp_path: Path) -> None:
    third = IN_MEMORY // 3
    body = b"".join(part(bytes([n]) * third, f'name="f"; filename="{n}"') for n in range(5)) + b"--xx--\r\n"
    _, files = parse_multipart(body, TYPE)
    assert [file.read() for file in files["f"]] == [bytes([n]) * third for n in range(5)]
    assert len(list(tmp_path.iterdir())) == 2
    del files
    gc.collect()
    assert list(tmp_path.iterdir()) == []


def test_a_field_is_no_place_for_a_file() -> None:
    body = part(bytes(MOST_TEXT // 2), 'name="a"') + part(bytes(MOST_TEXT // 2 + 1), 'name="b"') + b"--xx--\r\n"
    with pytest.raises(Refusal, match="bytes in fields") as refusal:
        parse_multipart(body, TYPE)
    assert refusal.value.status == 413
