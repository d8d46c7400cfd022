"""What the live explorer's server refuses: requests that other web pages make of it in the user's browser, and files.

A server at 127.0.0.1 is reached by every page that the browser shows. Such a page may send forms there, of files even,
which Gradio would store; and, as the owner of a name whose address it changes to 127.0.0.1 ("DNS rebinding"), it may
read the answers, too.
"""

import re

CHANGES = "/gradio_api/run/"  # the only addresses that a slider, a control or a button sends anything to
LOCAL = ("localhost", "127.0.0.1", "::1")


class Guard:
    """ASGI application: passes requests on to another one, or answers 403 with a line that says why.

    names   what the server may be called in the address of a request; None: anything
    """

    def __init__(self, app, names=None):
        self.app, self.names = app, names

    async def __call__(self, scope, receive, send):
        refusal = self.refusal(scope) if scope["type"] == "http" else None
        if refusal is None:
            return await self.app(scope, receive, send)
        headers = [(b"content-type", b"text/plain; charset=utf-8")]
        await send({"type": "http.response.start", "status": 403, "headers": headers})
        await send({"type": "http.response.body", "body": f"explore.py: {refusal}\n".encode()})

    def refusal(self, scope):
        """Return why a request is not answered, or None."""
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        name = host_name(headers.get("host", ""))
        if self.names is not None and name not in self.names:
            return f"answers to {' and '.join(self.names)}, not to {name}; --host 0.0.0.0 answers to any name"
        if scope["method"] in ("GET", "HEAD"):
            return None
        if headers.get("sec-fetch-site", "same-origin") != "same-origin":
            return "sent by another page than its own"
        if not scope["path"].startswith(CHANGES):
            return "takes nothing there"
        return None


def host_name(host):
    """Return the name or address in a Host header, without its port and brackets, in lower case."""
    return re.sub(r":\d*$", "", host).strip("[]").lower()


def names_of(host, address):
    """Return what a server may be called that answers at `address`, which --host called `host`; None: anything.

    Only a loopback address is reached from this machine alone, and has names that are known.
    """
    if not address.startswith(("127.", "::1")):
        return None
    return sorted({*LOCAL, host.lower(), address})
