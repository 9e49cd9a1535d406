"""The world around the host of packaging/test: `resolver [ADDRESS]` answers one name, `server` takes connections, `leaker` tries to get out and notes
each time it did, `ask NAME [SERVER]` prints its address, `connect ADDRESS` ends with 0 where that works. `load` asks 300 times a second, never twice the same
question, until /run/load-stop is there, and fails where one was not answered, or not with its address."""

import os
import socket
import struct
import sys
import time

WWW = "www.example.test"
ADDRESS = "203.0.113.80"


def resolver(address="192.0.2.53"):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((address, 53))
    while True:
        query, client = sock.recvfrom(4096)
        end = 12
        labels = []
        while query[end]:
            labels.append(query[end + 1 : end + 1 + query[end]].decode().lower())
            end += query[end] + 1
        question = query[12 : end + 5]
        (kind,) = struct.unpack(">H", query[end + 1 : end + 3])
        name = ".".join(labels)
        known = name == WWW or name.endswith("." + WWW)
        answers = 1 if known and kind == 1 else 0
        flags = 0x8180 if known else 0x8183
        reply = query[:2] + struct.pack(">HHHHH", flags, 1, answers, 0, 0) + question
        if answers:
            reply += b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 300, 4) + socket.inet_aton(ADDRESS)
        sock.sendto(reply, client)


def server():
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("0.0.0.0", 80))
    sock.listen(64)
    while True:
        sock.accept()[0].close()


def connects(address):
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.settimeout(0.5)
    try:
        sock.connect((address, 80))
        return True
    except OSError:
        return False
    finally:
        sock.close()


def leaker():
    while True:
        if connects("203.0.113.81"):
            with open("/var/log/leaks", "a") as log:
                log.write(f"{time.clock_gettime(time.CLOCK_BOOTTIME):.3f}\n")
        with open("/run/leaker-tried", "w") as tried:
            tried.write("yes")
        time.sleep(0.05)


def question(number, name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return struct.pack(">HHHHHH", number % 65536, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", 1, 1)


def ask(name, server="127.0.0.1"):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(3)
    sock.sendto(question(7, name), (server, 53))
    reply = sock.recv(4096)
    (code, answers) = (reply[3] & 15, struct.unpack(">H", reply[6:8])[0])
    if code or not answers:
        sys.exit(f"{name}: code {code}, {answers} answers")
    print(socket.inet_ntoa(reply[-4:]) if len(reply) < 90 else reply.hex())


def load():
    socks = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(32)]
    for sock in socks:
        sock.connect(("127.0.0.1", 53))
        sock.setblocking(False)
    begun, sent, waiting, lost, bad, slowest = time.monotonic(), 0, {}, 0, 0, 0.0
    while waiting or not os.path.exists("/run/load-stop"):
        now = time.monotonic()
        while not os.path.exists("/run/load-stop") and (now - begun) * 300 >= sent:
            try:
                socks[sent % 32].send(question(sent, f"q{sent}.{WWW}"))
            except OSError:
                pass
            waiting[(sent % 32, sent % 65536)] = now
            sent += 1
        for index, sock in enumerate(socks):
            while True:
                try:
                    reply = sock.recv(4096)
                except BlockingIOError:
                    break
                except OSError:
                    continue
                at = waiting.pop((index, struct.unpack(">H", reply[:2])[0]), None)
                if at is not None:
                    slowest = max(slowest, time.monotonic() - at)
                    bad += (reply[3] & 15) != 0 or socket.inet_aton(ADDRESS) not in reply
        over = [key for key, at in waiting.items() if now - at > 5]
        lost += len(over)
        for key in over:
            del waiting[key]
        time.sleep(0.002)
    print(f"{sent} questions: {lost} lost, {bad} refused, the slowest after {slowest:.2f} s")
    sys.exit(1 if lost or bad or sent < 300 else 0)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["resolver", *address]:
            resolver(*address)
        case ["server"]:
            server()
        case ["leaker"]:
            leaker()
        case ["load"]:
            load()
        case ["ask", name, *server]:
            ask(name, *server)
        case ["connect", address]:
            sys.exit(0 if connects(address) else 1)
        case _:
            sys.exit(__doc__)
