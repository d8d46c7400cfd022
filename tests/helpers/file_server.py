"""A file server on localhost whose manners tests choose: it behaves well, badly, and worse."""

import contextlib
import http.server
import threading

from patience import PATIENCE


class Server:
    """Serves `content` under every path, or `files` {path: content}; tests change its manners."""

    def __init__(self, content=b"", files=None):
        self.content, self.files, self.etag, self.ranges = content, files, '"1"', True
        self.modified = None
        self.content_type = "application/octet-stream"
        self.status = 200
        self.break_after = None  # bytes of the body, and then the connection closes
        self.chunked = False
        self.length = None  # what it says for the length of the body; None: the truth
        self.stated = True  # whether it says a length at all
        self.hang = None  # an Event: silent after the body, the connection open, until it is set
        self.wrong_range = False
        self.requests, self.paths = [], []  # (Range, If-Range), and the path, of every request

    def answer(self, handler):
        wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        self.requests.append((wanted, condition))
        self.paths.append(handler.path)
        content = self.content if self.files is None else self.files.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        begin = 0
        if wanted and self.ranges and condition in (None, self.etag, self.modified):
            begin = int(wanted[len("bytes=") : -1])
        if begin >= len(content) > 0:
            handler.send_response(416)
            handler.send_header("Content-Range", f"bytes */{len(content)}")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        body = content[begin:]
        handler.send_response(206 if begin else self.status)
        handler.send_header("Content-Type", self.content_type)
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.modified:
            handler.send_header("Last-Modified", self.modified)
        if begin:
            start = begin - 1 if self.wrong_range else begin
            handler.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.chunked:
            handler.send_header("Transfer-Encoding", "chunked")
        elif self.stated:
            handler.send_header("Content-Length", str(len(body)) if self.length is None else self.length)
        else:
            handler.send_header("Connection", "close")
        handler.end_headers()
        self.send(handler.wfile, body if self.break_after is None else body[: self.break_after])
        if self.hang:
            handler.wfile.flush()
            self.hang.wait(PATIENCE)
        handler.close_connection = True

    def send(self, stream, body):
        if not self.chunked:
            stream.write(body)
            return
        for begin in range(0, len(body), 100000):
            piece = body[begin : begin + 100000]
            stream.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        if self.break_after is None:
            stream.write(b"0\r\n\r\n")


@contextlib.contextmanager
def running(server):
    """Within the block `server` answers at http://127.0.0.1:PORT, which is its `.address`."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the client may have seen enough
                server.answer(self)

        def log_message(self, *arguments):
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    server.address = f"http://127.0.0.1:{listener.server_address[1]}"
    try:
        yield server
    finally:
        listener.shutdown()
        listener.server_close()
        thread.join()
