"""Files from the web: resumed where an attempt broke off, checked, and under their name only when they are whole."""

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import stat
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib

from experiment_utils.errors import UserError
from experiment_utils.files import atomic_write, read_json, write_json
from experiment_utils.runs import progress

_CHUNK = 1 << 20
_BLOCK = 1 << 16  # what is lost of a download when its server falls silent
_TIMEOUT = 60  # seconds without a byte
_BIGGEST_RATIO = 200  # of an archive's content to its own size: deflate itself reaches 1000 on zeros


class DownloadError(UserError):
    """A file that could not be fetched, or is not what it should be."""


class BrokenOffError(DownloadError):
    """A download that stopped in the middle, and that the next attempt goes on with."""


def google_drive(file_id):
    """Return the direct address of a file that is shared on Google Drive, past its question about virus scans."""
    query = urllib.parse.urlencode({"id": file_id, "export": "download", "confirm": "t"})
    return f"https://drive.usercontent.google.com/download?{query}"


def fetch(url, path, sha256=None, check=None):
    """Make sure that `path` holds the file at `url`, and return `path`.

    A file that is there already is not fetched again. While it is incomplete it is PATH.part, which the next call
    continues if the server still has the same file. Its SHA-256 must be `sha256`; where that is None, it is written to
    PATH.sha256 (with the size and the address) the first time and must be the same ever after. Without a checksum, a
    server that does not say where the file ends is refused: half a file would pass for a whole one. Raises
    DownloadError.

    check   called with the path of what came, before it gets its name; raises UserError where that is not the file
            (or not all of it), and then nothing is kept
    """
    path = os.fspath(path)
    _check_address(url)
    expected = sha256.lower() if sha256 else _recorded(path)
    if os.path.exists(path):
        digest = file_sha256(path)
        if expected not in (None, digest):
            raise DownloadError(f"{path}: SHA-256 is {digest}, should be {expected}; delete the file to fetch it again")
    else:
        source = "" if sha256 or expected is None else f" as {path}.sha256 notes of an earlier download"
        digest = _fetch_anew(url, path, expected, source, check)
    if sha256 is None and expected is None:
        record(path, digest, url)
    return path


def record(path, digest, source):
    """Write PATH.sha256, which `sha256sum -c` reads: the checksum of `path`, its size, and where it is from."""
    with atomic_write(f"{path}.sha256", "w") as stream:
        stream.write(f"{digest}  {os.path.basename(path)}\n# {os.path.getsize(path)} bytes from {source}\n")


def _check_address(url):
    if not url.startswith(("http://", "https://")):
        raise DownloadError(f"{url}: not an http:// or https:// address")
    try:
        urllib.parse.urlsplit(url)
    except ValueError as problem:
        raise DownloadError(f"{url}: not an address ({problem})") from None


def file_sha256(path):
    """Return the SHA-256 of a file's content, 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _recorded(path):
    """The checksum that an earlier download of `path` had, or None."""
    record = f"{path}.sha256"
    if not os.path.exists(record):
        return None
    with open(record, encoding="utf-8", errors="replace") as stream:
        words = stream.read().split()
    if not words or len(words[0]) != 64:
        raise DownloadError(f"{record}: holds no SHA-256; delete it")
    return words[0]


# ----------------------------------------------------------------------------------------------------------------------
# One download: PATH.part grows, PATH.part.json says of which file it is a part


def _fetch_anew(url, path, expected, source, check):
    """Fetch `url`, give it the name `path` if its checksum is `expected` (or None) and `check` agrees, and return it.

    source   where `expected` is from, for the message
    """
    part, about = f"{path}.part", f"{path}.part.json"
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    _download(url, part, about, end_must_be_known=expected is None and check is None)
    digest = file_sha256(part)
    os.remove(about)
    if check is not None:
        try:
            check(part)
        except UserError as problem:
            os.remove(part)
            said = str(problem).replace(part, url)
            raise DownloadError(f"{said if url in said else f'{url}: {said}'}; nothing of it was kept") from None
    if expected is not None and digest != expected:
        os.remove(part)
        raise DownloadError(f"{url}: what came has SHA-256 {digest}, should be {expected}{source}; nothing was kept")
    os.replace(part, path)
    return digest


def _download(url, part, about, end_must_be_known):
    """Bring `part` to its full length."""
    version = _version_of_part(url, part, about)
    have = os.path.getsize(part) if version else 0
    request = urllib.request.Request(url, headers={"User-Agent": "hessian-penalty", "Accept-Encoding": "identity"})
    if have:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", version)  # a file that has changed since then comes whole
    with contextlib.closing(_open(url, request)) as response:
        answered_range = response.headers.get("Content-Range", "")
        if response.status == 416 and answered_range == f"bytes */{have}":
            return  # it was complete
        if response.status == 416 or (response.status == 206 and not answered_range.startswith(f"bytes {have}-")):
            os.remove(part)
            raise DownloadError(f"{url}: cannot be continued at byte {have}; try again to fetch it from the beginning")
        if "text/html" in response.headers.get("Content-Type", ""):
            raise DownloadError(f"{url}: answers with a web page, not a file; fetch it with a browser, or elsewhere")
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length", "")
        total = have + int(length) if re.match(r"^[0-9]+$", length) else None
        write_json(about, {"url": url, "version": _version(response)})
        with open(part, "ab" if have else "wb") as stream:
            _copy(url, response, stream, have, total)
            stream.flush()
            os.fsync(stream.fileno())
        if end_must_be_known and total is None and not response.chunked:
            # The end of the connection is all that ends such a file. A server that continues files says, when it is
            # asked for more, whether there is more: hence "try again" where it names a version.
            again = "try again" if _version(response) else "give its SHA-256, or fetch it with other means"
            raise DownloadError(
                f"{url}: {os.path.getsize(part)} bytes came, and the server does not say whether that is all; {again}"
            )


def _copy(url, response, stream, have, total):
    bar = progress(
        desc=os.path.basename(stream.name)[: -len(".part")],
        total=total,
        initial=have,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
    )
    with bar:
        while True:
            problem = None
            try:
                chunk = response.read(_BLOCK)
            except http.client.IncompleteRead as incomplete:
                chunk, problem = incomplete.partial, "the connection closed"
            except (OSError, http.client.HTTPException) as broken:
                chunk, problem = b"", broken
            stream.write(chunk)
            bar.update(len(chunk))
            have += len(chunk)
            if problem is not None or not chunk:
                break
    if problem is not None or total not in (None, have):
        whole = "" if total is None else f" of {total}"
        why = "" if problem is None else f" ({problem})"
        raise BrokenOffError(f"{url}: broke off after {have}{whole} bytes{why}; try again to go on from there")


def _version_of_part(url, part, about):
    """What identifies the file that `part` is the beginning of, or None where it cannot be continued."""
    if not os.path.exists(part) or not os.path.exists(about):
        return None
    try:
        notes = read_json(about)
    except UserError:
        return None
    return notes.get("version") if isinstance(notes, dict) and notes.get("url") == url else None


def _version(response):
    """A strong ETag, or the date of the last change: what If-Range takes."""
    etag = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _open(url, request):
    """The response: 200, 206, or 416 where a server finds nothing behind the beginning that is here."""
    host = urllib.parse.urlsplit(url).netloc
    try:
        return urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as response:
        if response.code == 416 and request.has_header("Range"):
            return response
        response.close()
        reason = f"{response.code} {response.reason}"
        raise DownloadError(f"{url}: {host} answers {reason}; check the address") from None
    except urllib.error.URLError as problem:
        raise DownloadError(f"{url}: cannot reach {host} ({problem.reason}); check the connection") from None
    except (http.client.HTTPException, OSError, ValueError) as problem:
        raise DownloadError(f"{url}: cannot fetch it from {host} ({problem})") from None


# ----------------------------------------------------------------------------------------------------------------------
# Archives


def extract_zip(path, directory, only=None):
    """Extract a zip archive, or the entries of it that `only` lists, into `directory`; return the files' paths.

    Raises DownloadError where an entry would leave the directory, is a link, or has an absurd size, and where the
    archive is damaged; nothing is extracted unless all names are good.
    """
    path, directory = os.fspath(path), os.path.realpath(directory)
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            entries = [entry for entry in entries if only is None or entry.filename in only]
            targets = [_safe_target(path, entry, directory) for entry in entries]
            limit = _BIGGEST_RATIO * max(os.path.getsize(path), _CHUNK)
            if sum(entry.file_size for entry in entries) > limit:
                raise DownloadError(f"{path}: unpacks to more than {_BIGGEST_RATIO} times its size; not extracted")
            for entry, target in zip(entries, targets):
                with archive.open(entry) as source, atomic_write(target) as stream:
                    shutil.copyfileobj(source, stream, _CHUNK)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, zlib.error) as problem:
        raise DownloadError(f"{path}: not a readable zip archive ({problem}); fetch it again") from None
    return targets


def _safe_target(path, entry, directory):
    name = entry.filename.replace("\\", "/")
    parts = name.split("/")
    if name.startswith("/") or ":" in parts[0]:
        raise DownloadError(f"{path}: its entry {entry.filename!r} leaves the folder; nothing was extracted")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DownloadError(f"{path}: its entry {entry.filename!r} is a link; nothing was extracted")
    target = os.path.join(directory, *parts)
    if os.path.commonpath([directory, os.path.realpath(target)]) != directory:
        raise DownloadError(f"{path}: its entry {entry.filename!r} leaves the folder; nothing was extracted")
    return target
