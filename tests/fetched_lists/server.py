"""Lists over HTTPS: the files of a directory, with ETag; says what it answered. /old leads to /list.txt, /plain away from HTTPS."""
import hashlib
import http.server
import pathlib
import ssl
import sys

directory, certificate, key, address = sys.argv[1:]


class Lists(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self, status, headers, body=b""):
        print(status, self.path, flush=True)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.path == "/old":
            return self.answer(302, {"location": "/list.txt"})
        if self.path == "/address":
            return self.answer(302, {"location": "https://203.0.113.1/list.txt"})
        if self.path == "/plain":
            return self.answer(302, {"location": "http://lists.test/list.txt"})
        file = pathlib.Path(directory) / self.path.lstrip("/")
        if not file.is_file():
            return self.answer(404, {"content-type": "text/html"}, b"<html>nothing here</html>")
        body = file.read_bytes()
        tag = '"' + hashlib.sha256(body).hexdigest() + '"'
        if self.headers.get("if-none-match") == tag:
            return self.answer(304, {"etag": tag})
        kind = "text/html" if body.startswith(b"<") else "text/plain"
        self.answer(200, {"etag": tag, "content-type": kind}, body)

    def log_message(self, *_):
        pass


context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server = http.server.ThreadingHTTPServer((address, 443), Lists)
server.socket = context.wrap_socket(server.socket, server_side=True)
print("serves", flush=True)
server.serve_forever()
