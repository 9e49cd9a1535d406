"""A web site: every name, over HTTPS. Says who loaded what: host, path, address that it came to, program."""
import http.server
import socket
import ssl
import sys

PAGE = """<!doctype html><title>begun</title><h1>The page of {host}</h1>
<script>function shown() {{ document.title = "complete"; fetch("/shown"); }}</script>
<img src="https://picture-{host}/picture.svg" onload="shown()">"""
PICTURE = '<svg xmlns="http://www.w3.org/2000/svg" width="8" height="8"><rect width="8" height="8"/></svg>'


class Site(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        host = self.headers.get("host", "")
        at = self.connection.getsockname()[0].removeprefix("::ffff:")
        print(host, self.path, at, self.headers.get("user-agent", "-"), flush=True)
        kind, text = ("image/svg+xml", PICTURE) if self.path.endswith(".svg") else ("text/html", PAGE.format(host=host))
        body = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    daemon_threads = True

    def finish_request(self, request, client_address):
        # The handshake belongs to the connection's own thread.
        request.settimeout(60)
        super().finish_request(self.tls.wrap_socket(request, server_side=True), client_address)

    def handle_error(self, request, client_address):
        print("error", client_address, sys.exc_info()[1], file=sys.stderr, flush=True)


server = Server(("::", 443), Site)
server.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
server.tls.load_cert_chain(sys.argv[1], sys.argv[2])
server.serve_forever()
