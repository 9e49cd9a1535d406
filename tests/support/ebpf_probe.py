"""Connects or sends as it is told, and says what the kernel said. Each word is one probe: KIND/ADDRESS/PORT."""
import errno
import socket
import sys

KINDS = {
    # A word, the socket's family, its type, what is done.
    "tcp": (None, socket.SOCK_STREAM, "connect"),
    "udp": (None, socket.SOCK_DGRAM, "sendto"),
    "udp-connect": (None, socket.SOCK_DGRAM, "connect"),
    "udp-connected": (None, socket.SOCK_DGRAM, "connected"),
    "tcp-mapped": (socket.AF_INET6, socket.SOCK_STREAM, "connect"),
    "udp-mapped": (socket.AF_INET6, socket.SOCK_DGRAM, "sendto"),
    "fastopen": (None, socket.SOCK_STREAM, "fastopen"),
}


OPTIONS = {}


def probe(word):
    kind, rest = word.split("/", 1)
    address, port = rest.rsplit("/", 1)
    family, kind, act = KINDS[kind]
    natural = socket.AF_INET6 if ":" in address else socket.AF_INET
    if family == socket.AF_INET6 and natural == socket.AF_INET:
        address = "::ffff:" + address
    one = socket.socket(family or natural, kind)
    one.settimeout(5)
    if "mark" in OPTIONS:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, int(OPTIONS["mark"], 0))
    if "from" in OPTIONS:
        one.bind(("", int(OPTIONS["from"])))
    to = (address, int(port))
    try:
        if act == "connect":
            one.connect(to)
        elif act == "sendto":
            one.sendto(b"x", to)
        elif act == "connected":
            # A datagram with an address of its own on a socket that is connected elsewhere.
            one.connect(("198.51.100.7", 9))
            one.sendto(b"x", to)
        elif act == "fastopen":
            one.sendto(b"x", socket.MSG_FASTOPEN, to)
    except socket.timeout:
        return "timeout"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error))
    return "ok"


for word in sys.argv[1:]:
    if word.startswith("--"):
        name, value = word[2:].split("=")
        OPTIONS[name] = value
print(" ".join(probe(word) for word in sys.argv[1:] if not word.startswith("--")))
