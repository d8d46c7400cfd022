"""What the live explorer's server refuses, asked as ASGI servers ask."""

import asyncio

import pytest

from biggan.explorer_guard import Guard, names_of

HOME = names_of("localhost", "127.0.0.1")
PREDICT = "/gradio_api/run/predict"


def answer(method, path, host, site=None, names=HOME):
    """(status, body) of a request; 200 from the application behind the guard."""
    sent = []

    async def send(message):
        sent.append(message)

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    headers = [(b"host", host.encode())] + ([] if site is None else [(b"sec-fetch-site", site.encode())])
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Guard(app, names)(scope, None, send))
    return sent[0]["status"], b"".join(message["body"] for message in sent[1:]).decode()


@pytest.mark.parametrize("host", ["127.0.0.1:7860", "localhost:7860", "LocalHost", "[::1]:7860"])
def test_own_pages_are_answered(host):
    assert answer("GET", "/", host) == answer("HEAD", "/", host, "none") == (200, "")
    assert answer("GET", "/", host, "cross-site") == (200, "")  # a link on another page
    assert answer("POST", PREDICT, host) == answer("POST", PREDICT, host, "same-origin") == (200, "")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "none"])
def test_other_pages_change_nothing(site):
    assert answer("POST", PREDICT, "127.0.0.1:7860", site) == (403, "explore.py: sent by another page than its own\n")


@pytest.mark.parametrize("path", ["/gradio_api/upload", "/gradio_api/component_server", "/login", "/"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_else_is_taken(method, path):
    assert answer(method, path, "127.0.0.1:7860") == (403, "explore.py: takes nothing there\n")


@pytest.mark.parametrize("host", ["evil.example:7860", "127.0.0.1.evil.example", "localhost.evil.example", ""])
def test_names_that_another_page_gave_this_machine_are_refused(host):
    for method, path in (("GET", "/"), ("POST", PREDICT)):
        status, said = answer(method, path, host)
        assert status == 403 and said.startswith("explore.py: answers to 127.0.0.1 and ::1 and localhost, not to ")
        assert answer(method, path, host, names=None) == (200, "")


def test_names():
    assert names_of("127.0.0.1", "127.0.0.1") == ["127.0.0.1", "::1", "localhost"]
    assert names_of("MyHost", "127.0.1.1") == ["127.0.0.1", "127.0.1.1", "::1", "localhost", "myhost"]
    assert names_of("0.0.0.0", "0.0.0.0") is names_of("::", "::") is names_of("mine.example", "10.1.2.3") is None
