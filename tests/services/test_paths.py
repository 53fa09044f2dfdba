"""Which path is which file, and which is none: on real directories, with the kernel's own help and without."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workermand.services import paths
from workermand.services.paths import Found, Moved, Refused, Wanted

Get = Callable[[str], str]
INDEX = ("index.html", "index.htm")
HIDDEN_FROM_ALL = "the neighbour's secret"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A site, and beside it what must never be served."""
    (tmp_path / "secret.txt").write_text(HIDDEN_FROM_ALL)
    (tmp_path / "site-of-another").mkdir()
    (tmp_path / "site-of-another" / "secret.txt").write_text(HIDDEN_FROM_ALL)
    root = tmp_path / "site"
    for name in ("docs", "empty", "old", "two words", "größe", ".well-known", ".git", "docs/.well-known", "odd"):
        (root / name).mkdir(parents=True)
    for name in (
        "index.html",
        "page.html",
        "docs/index.html",
        "old/index.htm",
        "two words/a?b#c%41.txt",
        "größe/ß.txt",
        ".well-known/security.txt",
        ".well-known/.hidden",
        "docs/.well-known/x",
        ".git/config",
        ".env",
        "odd/%2e%2e",
        "odd/a..b",
        "odd/a;b=c",
    ):
        (root / name).write_text(name)
    return root


@pytest.fixture(params=["openat2", "compared"])
def get(request: pytest.FixtureRequest, root: Path, monkeypatch: pytest.MonkeyPatch) -> Get:
    """What stands in the file of a path; both ways that there are to open it."""
    if request.param == "compared":
        monkeypatch.setattr(paths, "_IS_THERE", False)

    def get(path: str) -> str:
        return content(paths.open_below(str(root), paths.read(path), INDEX))

    return get


@pytest.fixture(autouse=True)
def _nothing_stays_open() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)


def content(found: Found) -> str:
    with open(found.fd) as file:
        return file.read()


def status_of(get: Get, path: str) -> int:
    with pytest.raises(Refused) as caught:
        get(path)
    return caught.value.status


# ---------------------------------------------------------------------------------------------------- what there is


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/", "index.html"),
        ("//", "index.html"),
        ("/page.html", "page.html"),
        ("/%70age%2Ehtml", "page.html"),
        ("//page.html", "page.html"),
        ("/docs/", "docs/index.html"),
        ("/docs//index.html", "docs/index.html"),
        ("/old/", "old/index.htm"),
        ("/two%20words/a%3Fb%23c%2541.txt", "two words/a?b#c%41.txt"),
        ("/gr%C3%B6%C3%9Fe/%C3%9F.txt", "größe/ß.txt"),
        ("/gr\xc3\xb6\xc3\x9fe/\xc3\x9f.txt", "größe/ß.txt"),  # as they come, each a character of Latin-1
        ("/.well-known/security.txt", ".well-known/security.txt"),
        ("/odd/%252e%252e", "odd/%2e%2e"),
        ("/odd/a..b", "odd/a..b"),
        ("/odd/a;b=c", "odd/a;b=c"),
    ],
)
def test_a_path_is_a_file(get: Get, path: str, name: str) -> None:
    assert get(path) == name


@pytest.mark.parametrize(
    ("path", "location"),
    [
        ("/docs", "/docs/"),
        ("//docs", "/docs/"),
        ("///docs", "/docs/"),
        ("/two%20words", "/two%20words/"),
        ("/gr%C3%B6%C3%9Fe", "/gr%C3%B6%C3%9Fe/"),
    ],
)
def test_a_directory_is_sent_its_slash_and_stays_on_this_host(get: Get, path: str, location: str) -> None:
    with pytest.raises(Moved) as caught:
        get(path)
    assert caught.value.location == location


@pytest.mark.parametrize("path", ["//evil.example", "///evil.example", "/%65vil.example"])
def test_a_redirect_leads_to_no_other_host(root: Path, get: Get, path: str) -> None:
    (root / "evil.example").mkdir()
    with pytest.raises(Moved) as caught:
        get(path)
    assert caught.value.location == "/evil.example/"


# ---------------------------------------------------------------------------------------------------- what there is not


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/docs/../../secret.txt",
        "/docs/../page.html",  # it would stay inside, and no browser sends it
        "/..",
        "/.",
        "/./page.html",
        "/%2e%2e/secret.txt",
        "/%2E%2e/secret.txt",
        "/.%2e/secret.txt",
        "/%2e./secret.txt",
        "/docs/%2e%2e/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        "/..%2Fsecret.txt",
        "/%2e%2e%2fsecret.txt",
        "/docs%2findex.html",
        "/%2fetc%2fpasswd",
        "/%2f%2fevil.example",
        "/..\\secret.txt",
        "/..%5csecret.txt",
        "/..%5Csecret.txt",
        "/%5c%5cevil.example",
        "/\\evil.example",
        "/page.html%00",
        "/page.html%00.png",
        "/%00",
        "/page.html%0a",
        "/page.html%0d%0aSet-Cookie:a=b",
        "/page.html%7f",
        "/\x00",
    ],
)
def test_what_is_no_path_is_refused(get: Get, path: str) -> None:
    assert status_of(get, path) == 400


@pytest.mark.parametrize(
    "path",
    [
        "/%c0%ae%c0%ae/secret.txt",  # "." in two bytes
        "/%c0%af",  # "/" in two bytes
        "/%e0%80%af",  # in three
        "/%f0%80%80%af",  # in four
        "/%c1%9c",  # a backslash
        "/%c0%80",  # NUL
        "/%ed%a0%80",  # half of a surrogate pair
        "/%ff",
        "/\xff",
        "/%fc%80%80%80%80%ae",
    ],
)
def test_overlong_utf_8_is_none(get: Get, path: str) -> None:
    assert status_of(get, path) == 400


@pytest.mark.parametrize("path", ["/%", "/%2", "/%zz", "/%u002e%u002e/", "/page.html%", "/%-1", "/% 1"])
def test_broken_percent_encoding_is_refused(get: Get, path: str) -> None:
    assert status_of(get, path) == 400


@pytest.mark.parametrize("path", ["", "*", "page.html", "http://localhost/page.html", "../secret.txt"])
def test_it_begins_with_a_slash(get: Get, path: str) -> None:
    assert status_of(get, path) == 400


@pytest.mark.parametrize(
    "path",
    [
        "/%252e%252e/secret.txt",  # decoded once: a name with percent signs in it
        "/%252e%252e%252fsecret.txt",
        "/%25252e%25252e/secret.txt",
        "/..%252fsecret.txt",
        "/%255c..%255csecret.txt",
    ],
)
def test_a_second_encoding_is_a_name_like_any(get: Get, path: str) -> None:
    assert status_of(get, path) == 404


@pytest.mark.parametrize(
    "path",
    [
        "/.env",
        "/%2eenv",
        "/.git/config",
        "/.git/",
        "/.git",
        "/docs/.git/config",
        "/.well-known/.hidden",
        "/docs/.well-known/x",
        "/...",
        "/..../secret.txt",
        "/..;/secret.txt",
        "/.. /secret.txt",
        "/..%20/secret.txt",
    ],
)
def test_dotfiles_are_not_there_but_for_the_well_known(get: Get, path: str) -> None:
    assert status_of(get, path) == 404


@pytest.mark.parametrize(
    "path",
    [
        "/nothing",
        "/nothing/",
        "/page.html/",
        "/page.html/more",
        "/page.html.",
        "/page.html...",
        "/page.html%20",
        "/PAGE.HTML",
        "/page.html::$DATA",
        "/empty/",
        "/C:/secret.txt",
        "/~root/secret.txt",
        "/" + "a" * 256,
        "/" + "a" * 10_000,
        "/docs/" * 2000,
        "/docs" + "/a" * 5000,
    ],
)
def test_what_is_not_there_is_not_found(get: Get, path: str) -> None:
    assert status_of(get, path) == 404


def test_a_root_that_has_gone_has_no_files(tmp_path: Path) -> None:
    with pytest.raises(Refused) as caught:
        paths.open_below(str(tmp_path / "gone"), Wanted(("page.html",)))
    assert caught.value.status == 404


# ---------------------------------------------------------------------------------------------------- links and others


@pytest.mark.parametrize("target", ["page.html", "docs/../page.html", "docs/index.html"])
def test_a_symlink_within_the_root_is_followed(root: Path, get: Get, target: str) -> None:
    (root / "link").symlink_to(target)
    assert get("/link") == os.path.relpath((root / target).resolve(), root)


@pytest.mark.parametrize("target", ["../secret.txt", "docs/../../secret.txt", "/etc/passwd", "/proc/self/environ"])
def test_a_symlink_out_of_the_root_is_refused(root: Path, get: Get, target: str) -> None:
    (root / "link").symlink_to(target)
    assert status_of(get, "/link") == 403


@pytest.mark.parametrize("target", ["..", "../site-of-another", "/etc", "/"])
def test_so_is_a_directory_behind_one(root: Path, get: Get, target: str) -> None:
    (root / "link").symlink_to(target)
    for path in ("/link", "/link/", "/link/secret.txt", "/link/passwd"):
        assert status_of(get, path) in (403, 404)


def test_so_is_an_index(root: Path, get: Get) -> None:
    (root / "empty" / "index.html").symlink_to("../../secret.txt")
    assert status_of(get, "/empty/") == 403


def test_links_in_a_circle_are_not_found(root: Path, get: Get) -> None:
    (root / "link").symlink_to("link")
    assert status_of(get, "/link") == 404


def test_the_root_may_be_a_symlink_and_is_followed_anew(tmp_path: Path) -> None:
    current = tmp_path / "current"
    for version in ("1", "2"):
        (tmp_path / version).mkdir()
        (tmp_path / version / "page.html").write_text(version)
        current.unlink(missing_ok=True)
        current.symlink_to(version)
        assert content(paths.open_below(str(current), Wanted(("page.html",)))) == version


def test_a_pipe_keeps_nobody_waiting(root: Path, get: Get) -> None:
    os.mkfifo(root / "pipe")
    assert status_of(get, "/pipe") == 403


def test_a_socket_is_no_file(root: Path, get: Get, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket")
        assert status_of(get, "/socket") == 403


def test_what_may_not_be_read_is_forbidden(root: Path, get: Get) -> None:
    if os.geteuid() == 0:  # root may read all: as somebody who may not
        os.chmod(root.parent, 0o755)
        (root / "page.html").chmod(0o600)
        os.seteuid(65534)
    else:
        (root / "page.html").chmod(0)
    try:
        status = status_of(get, "/page.html")
    finally:
        if os.getuid() == 0:
            os.seteuid(0)
    assert status in (403, 404)  # 404: pytest's own directory is closed to others


def test_an_index_that_is_a_directory_is_passed_over(root: Path, get: Get) -> None:
    (root / "empty" / "index.html").mkdir()
    (root / "empty" / "index.htm").write_text("the second")
    assert get("/empty/") == "the second"


# ---------------------------------------------------------------------------------------------------- the cache


def test_what_the_kernel_knows_is_opened_at_once(root: Path) -> None:
    wanted = paths.read("/docs/")
    content(paths.open_below(str(root), wanted, INDEX))
    found = paths.open_below(str(root), wanted, INDEX, cached=True)
    assert (found.names, content(found)) == (("docs", "index.html"), "docs/index.html")


def test_what_it_does_not_know_is_a_thread_s(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BlockingIOError):
        paths.open_below(str(root), Wanted(("never", "asked", "for")), cached=True)
    monkeypatch.setattr(paths, "_IS_THERE", False)
    with pytest.raises(BlockingIOError):
        paths.open_below(str(root), Wanted(("page.html",)), cached=True)


def test_a_kernel_that_knows_no_cache_leaves_all_to_the_thread(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "_CACHED", 1 << 40)  # a flag of the future: EINVAL
    with pytest.raises(BlockingIOError):
        paths.open_below(str(root), Wanted(("page.html",)), cached=True)
    assert content(paths.open_below(str(root), Wanted(("page.html",)))) == "page.html"


def test_renames_without_end_are_no_loop_without_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def again(*_arguments: object) -> int:
        tries.append(1)
        raise BlockingIOError

    monkeypatch.setattr(paths, "_openat2", again)
    with pytest.raises(Refused) as caught:
        paths.open_below(str(root), Wanted(("page.html",)))
    assert (caught.value.status, len(tries)) == (503, paths.TRIES)


def test_a_sandbox_may_refuse_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    assert paths._is_there()

    def refused(*_arguments: object) -> int:
        raise PermissionError

    monkeypatch.setattr(paths, "_openat2", refused)
    assert not paths._is_there()


def test_other_errors_are_the_caller_s(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_arguments: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(paths, "_openat2", broken)
    with pytest.raises(OSError, match="Input/output error"):
        paths.open_below(str(root), Wanted(("page.html",)))


# ---------------------------------------------------------------------------------------------------- any path at all

PIECES = st.sampled_from(
    ["/", "..", ".", "%2e", "%2f", "%5c", "\\", "%00", "%25", "%c0%af", "secret.txt", "docs", "link", "page.html", ";"]
)


@given(st.lists(PIECES | st.characters(max_codepoint=255), max_size=12).map(lambda pieces: "/" + "".join(pieces)))
def test_no_path_leads_out(tmp_path_factory: pytest.TempPathFactory, path: str) -> None:
    root = tmp_path_factory.getbasetemp() / "site"
    if not root.exists():
        (root / "docs").mkdir(parents=True)
        (root / "page.html").write_text("page")
        (root / "link").symlink_to("..")
        (root.parent / "secret.txt").write_text(HIDDEN_FROM_ALL)
    try:
        found = content(paths.open_below(str(root), paths.read(path), INDEX))
    except (Refused, Moved) as error:
        found = getattr(error, "location", "page")
    assert found == "page" or (found.startswith("/") and not found.startswith("//"))


NAMES = st.text(st.characters(codec="utf-8", min_codepoint=32, exclude_characters="/\\\x7f"), min_size=1)


@given(st.lists(NAMES, min_size=1))
def test_a_path_made_of_names_is_read_as_these(given: list[str]) -> None:
    names = tuple(name.lstrip(".") or "x" for name in given)
    assert paths.read(paths.path_of(names)) == Wanted(names)
    assert paths.read(paths.path_of(names) + "/") == Wanted(names, slash=True)
