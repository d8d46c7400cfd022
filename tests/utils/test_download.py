"""Downloads from a server on localhost that behaves well, badly, and worse."""

import hashlib
import os
import re
import socket
import threading
import zipfile

import file_server
import pytest

from experiment_utils import download
from experiment_utils.download import DownloadError, extract_zip, fetch, file_sha256, google_drive
from experiment_utils.errors import UserError

CONTENT = bytes(range(256)) * 5000  # more than one chunk
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with file_server.running(file_server.Server(CONTENT)) as server:
        server.url = f"{server.address}/G_ema.pth"
        yield server


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "cache" / "G_ema.pth")


def broken_off(server, path, after=700000):
    """Leave the beginning of a download in place."""
    server.break_after = after
    with pytest.raises(DownloadError, match=f"broke off after {after} of {len(CONTENT)} bytes"):
        fetch(server.url, path)
    server.break_after = None
    assert not os.path.exists(path)


def read(path):
    with open(path, "rb") as stream:
        return stream.read()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_plain_download(server, path, chunked):
    server.chunked = chunked
    assert fetch(server.url, path, SHA256.upper()) == path
    assert read(path) == CONTENT
    assert os.listdir(os.path.dirname(path)) == ["G_ema.pth"]
    fetch(server.url, path, SHA256)
    assert len(server.requests) == 1  # the second time it was there


def test_progress_is_shown(server, path, capsys):
    fetch(server.url, path)
    assert "G_ema.pth" in capsys.readouterr().err


@pytest.mark.parametrize("by", ["ETag", "Last-Modified"])
def test_a_broken_download_goes_on(server, path, by):
    if by == "Last-Modified":
        server.etag, server.modified = None, "Mon, 01 Jun 2020 00:00:00 GMT"
    broken_off(server, path)
    fetch(server.url, path)
    assert read(path) == CONTENT
    assert server.requests[1] == ("bytes=700000-", server.etag or server.modified)


def test_a_server_that_ignores_ranges(server, path):
    broken_off(server, path)
    server.ranges = False
    fetch(server.url, path)
    assert read(path) == CONTENT


def test_a_file_that_changed_in_between_comes_whole(server, path):
    broken_off(server, path)
    server.content, server.etag = CONTENT[::-1], '"2"'
    fetch(server.url, path)
    assert read(path) == CONTENT[::-1]


def test_without_a_version_a_download_starts_anew(server, path):
    server.etag = None
    broken_off(server, path)
    fetch(server.url, path)
    assert read(path) == CONTENT and server.requests[1] == (None, None)


def test_a_part_of_another_address_is_not_continued(server, path):
    broken_off(server, path)
    fetch(server.url + "?mirror", path)
    assert read(path) == CONTENT and server.requests[1] == (None, None)


def test_a_weak_etag_does_not_identify_bytes(server, path):
    server.etag = 'W/"1"'
    broken_off(server, path)
    fetch(server.url, path)
    assert server.requests[1] == (None, None)


def test_a_part_that_is_complete(server, path):
    """The process died between the last byte and the renaming."""
    broken_off(server, path)
    with open(path + ".part", "wb") as stream:
        stream.write(CONTENT)
    fetch(server.url, path, SHA256)
    assert read(path) == CONTENT


def test_a_part_longer_than_the_file(server, path):
    broken_off(server, path)
    server.content = CONTENT[:1000]
    with pytest.raises(DownloadError, match="cannot be continued at byte 700000; try again"):
        fetch(server.url, path)
    fetch(server.url, path)
    assert read(path) == CONTENT[:1000]


def test_an_answer_that_begins_elsewhere(server, path):
    broken_off(server, path)
    server.wrong_range = True
    with pytest.raises(DownloadError, match="cannot be continued"):
        fetch(server.url, path)
    fetch(server.url, path)
    assert read(path) == CONTENT


def test_notes_beside_a_part_that_are_damaged(server, path):
    broken_off(server, path)
    with open(path + ".part.json", "w") as stream:
        stream.write("[")
    fetch(server.url, path)
    assert read(path) == CONTENT


def test_a_truncated_body_of_unknown_length(server, path):
    server.chunked, server.break_after = True, 300000
    with pytest.raises(DownloadError, match="broke off after 300000 bytes"):
        fetch(server.url, path)
    assert not os.path.exists(path)


@pytest.mark.parametrize("length", [None, "a lot"])
@pytest.mark.parametrize("after", [None, 300000])
def test_a_body_that_only_the_connections_end_ends(server, path, length, after):
    """Nothing but a checksum, or the server's own word when it is asked for more, tells that it is whole."""
    server.etag, server.stated, server.length, server.break_after = None, length is not None, length, after
    for _ in range(2):
        with pytest.raises(DownloadError, match=r"the server does not say whether that is all; give its SHA-256"):
            fetch(server.url, path)
        assert not os.path.exists(path)
    if after is None:
        assert read(fetch(server.url, path, SHA256)) == CONTENT
    else:
        with pytest.raises(DownloadError, match="has SHA-256"):
            fetch(server.url, path, SHA256)


def test_a_body_of_unknown_length_is_whole_when_the_server_says_there_is_no_more(server, path):
    server.stated, server.break_after = False, 300000
    with pytest.raises(DownloadError, match=r"300000 bytes came, and the server does not say .*; try again"):
        fetch(server.url, path)
    server.break_after = None
    with pytest.raises(DownloadError, match=rf"{len(CONTENT)} bytes came, .*; try again"):
        fetch(server.url, path)  # continued, but the rest ends with the connection, too
    fetch(server.url, path)
    assert read(path) == CONTENT and server.requests[-1][0] == f"bytes={len(CONTENT)}-"


def test_a_server_that_hangs(server, path, monkeypatch):
    monkeypatch.setattr(download, "_TIMEOUT", 2)
    server.break_after, server.hang = 300000, threading.Event()
    with pytest.raises(DownloadError, match=r"broke off after \d+ of \d+ bytes \(.*timed out.*\); try again"):
        fetch(server.url, path)
    server.hang.set()
    have = os.path.getsize(path + ".part")
    assert 200000 < have <= 300000
    server.break_after = server.hang = None
    fetch(server.url, path)
    assert read(path) == CONTENT and server.requests[-1][0] == f"bytes={have}-"


def test_a_server_that_says_too_little(server, path):
    """Content-Length is the server's word: with a smaller one the rest is out of sight, and only a checksum tells."""
    server.length = "1000"
    with pytest.raises(DownloadError, match="has SHA-256"):
        fetch(server.url, path, SHA256)
    assert os.listdir(os.path.dirname(path)) == []


def test_a_check_of_the_callers(server, path):
    """It sees the whole content before that has a name, and vouches for the end where nothing else does."""
    seen = []

    def check(part):
        seen.append(read(part))
        assert not os.path.exists(path)
        if len(seen[-1]) < len(CONTENT):
            raise UserError(f"{part}: half a file")

    server.stated, server.break_after = False, 300000
    with pytest.raises(DownloadError, match=rf"^{re.escape(server.url)}: half a file; nothing of it was kept$"):
        fetch(server.url, path, check=check)
    assert os.listdir(os.path.dirname(path)) == []
    server.break_after = None
    assert read(fetch(server.url, path, check=check)) == CONTENT and seen == [CONTENT[:300000], CONTENT]


def test_a_server_that_says_too_much(server, path):
    server.length = str(len(CONTENT) + 5)
    with pytest.raises(DownloadError, match=f"broke off after {len(CONTENT)} of {len(CONTENT) + 5} bytes"):
        fetch(server.url, path)


@pytest.mark.parametrize("status", [403, 404, 500])
def test_errors_of_the_server(server, path, status):
    server.status = status
    with pytest.raises(DownloadError, match=rf"G_ema\.pth: 127\.0\.0\.1:\d+ answers {status} ") as error:
        fetch(server.url, path)
    assert "\n" not in str(error.value) and not os.path.exists(path)


def test_a_web_page_is_not_a_file(server, path):
    """What Google Drive answers when too many have fetched a file."""
    server.content, server.content_type = b"<html>Quota exceeded</html>", "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="answers with a web page, not a file"):
        fetch(server.url, path)
    assert not os.path.exists(path)


def test_an_unreachable_host(path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
    with pytest.raises(DownloadError, match="cannot reach 127"):
        fetch(url, path)


def test_a_server_that_is_none(path):
    """It accepts, says nothing that is HTTP, and closes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)

        def hang_up():
            connection, _ = listener.accept()
            connection.recv(1000)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(DownloadError, match="cannot fetch it from 127"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/file", path)
        thread.join()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://host/file", "G_ema.pth", "http://[::1/file"])
def test_other_addresses(path, url):
    with pytest.raises(DownloadError, match=r"not an (http|address)"):
        fetch(url, path)


def test_a_wrong_checksum_keeps_nothing(server, path):
    with pytest.raises(DownloadError, match=f"has SHA-256 {SHA256}, should be {'0' * 64}"):
        fetch(server.url, path, "0" * 64)
    assert os.listdir(os.path.dirname(path)) == []


def test_a_file_in_place_is_checked(server, path):
    fetch(server.url, path, SHA256)
    with open(path, "ab") as stream:
        stream.write(b"!")
    with pytest.raises(DownloadError, match="delete the file"):
        fetch(server.url, path, SHA256)


def test_an_unknown_checksum_is_recorded_and_holds_ever_after(server, path):
    fetch(server.url, path)
    recorded = f"{SHA256}  G_ema.pth\n# {len(CONTENT)} bytes from {server.url}\n"
    assert open(path + ".sha256").read() == recorded
    os.remove(path)
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DownloadError, match=rf"should be {SHA256} as .*G_ema\.pth\.sha256 notes"):
        fetch(server.url, path)
    server.content = CONTENT
    fetch(server.url, path)
    with open(path, "r+b") as stream:
        stream.write(b"!")
    with pytest.raises(DownloadError, match=f"should be {SHA256}"):
        fetch(server.url, path)
    with open(path + ".sha256", "w") as stream:
        stream.write("nonsense")
    with pytest.raises(DownloadError, match="holds no SHA-256"):
        fetch(server.url, path)


def test_google_drives_direct_address():
    assert google_drive("1n-_9") == ("https://drive.usercontent.google.com/download?id=1n-_9&export=download&confirm=t")


# ----------------------------------------------------------------------------------------------------------------------
# Archives


def make_zip(path, entries, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(str(path), "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    return str(path)


def test_extraction(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"138k/": b"", "138k/G_ema.pth": CONTENT, "readme": b"text"})
    files = extract_zip(path, tmp_path / "out")
    assert files == [str(tmp_path / "out" / "138k" / "G_ema.pth"), str(tmp_path / "out" / "readme")]
    assert file_sha256(files[0]) == SHA256


@pytest.mark.parametrize(
    "name", ["../escaped", "a/../../escaped", "/tmp/escaped", "..\\escaped", "C:\\escaped", "a\\..\\..\\escaped"]
)
def test_entries_that_leave_the_folder(tmp_path, name):
    path = make_zip(tmp_path / "a.zip", {"good": b"1", name: b"2"})
    with pytest.raises(DownloadError, match="leaves the folder; nothing was extracted"):
        extract_zip(path, tmp_path / "out")
    assert sorted(os.listdir(str(tmp_path))) == ["a.zip"]


def test_links_inside_an_archive(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    path = make_zip(tmp_path / "a.zip", {link: b"/etc"})
    with pytest.raises(DownloadError, match="is a link"):
        extract_zip(path, tmp_path / "out")


def test_links_that_wait_in_the_folder(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "a").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DownloadError, match="leaves the folder"):
        extract_zip(make_zip(tmp_path / "a.zip", {"a/file": b"1"}), tmp_path / "out")


def test_a_bomb(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"zeros": bytes(300 << 20)})
    with pytest.raises(DownloadError, match="unpacks to more than 200 times"):
        extract_zip(path, tmp_path / "out")


def test_damaged_archives(tmp_path):
    path = make_zip(tmp_path / "a.zip", {"file": CONTENT}, zipfile.ZIP_STORED)
    content = read(path)
    for damaged in (content[:-100], content[:5000] + b"!!!" + content[5003:]):
        with open(path, "wb") as stream:
            stream.write(damaged)
        with pytest.raises(DownloadError, match="not a readable zip archive"):
            extract_zip(path, tmp_path / "out")
        assert not os.path.exists(str(tmp_path / "out" / "file"))
