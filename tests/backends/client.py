"""Connects as it is told, one line after another, and says what the kernel said."""
import errno
import socket
import sys

kept = None
for line in sys.stdin:
    try:
        act, *to = line.split()
        if act == "ping":
            kept.sendall(b"still here")
            said = "ok" if kept.recv(1) else "closed"
        else:
            one = socket.create_connection((to[0], int(to[1])), timeout=5)
            if act == "keep":
                kept = one
            else:
                one.close()
            said = "ok"
    except socket.timeout:
        said = "timeout"
    except OSError as error:
        said = errno.errorcode.get(error.errno, str(error))
    print(said, flush=True)
