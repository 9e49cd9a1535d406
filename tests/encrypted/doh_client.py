"""Asks a DoH server by its name with Python's own library, and loads a page from the address: URL-of-DoH HOST CA."""
import http.client
import ipaddress
import socket
import ssl
import struct
import sys
import urllib.request

doh, host, authority = sys.argv[1:]
tls = ssl.create_default_context(cafile=authority)
name = b"".join(bytes([len(label)]) + label.encode() for label in host.split(".")) + b"\0"
query = struct.pack("!6H", 0, 0x0100, 1, 0, 0, 0) + name + struct.pack("!2H", 1, 1)
request = urllib.request.Request(doh, data=query, headers={"content-type": "application/dns-message"})
reply = urllib.request.urlopen(request, context=tls, timeout=60).read()
assert reply[3] & 15 == 0 and struct.unpack("!H", reply[6:8])[0] == 1, reply.hex()
address = str(ipaddress.IPv4Address(reply[len(query) + 12 : len(query) + 16]))

connection = http.client.HTTPSConnection(host, context=tls, timeout=60)
connection.sock = tls.wrap_socket(socket.create_connection((address, 443), 60), server_hostname=host)
connection.request("GET", "/", headers={"user-agent": "Python"})
print(connection.getresponse().read().decode())
