"""Asks over QUIC (RFC 9250) with aioquic, for tests: all names at once on one connection; prints the octets of each reply in hexadecimal.

doq_client.py ADDRESS PORT CA SERVER-NAME NAME...
"""

import asyncio
import struct
import sys

from aioquic.asyncio import connect
from aioquic.quic.configuration import QuicConfiguration


def question(name):
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split("."))
    return b"\0\0\1\0\0\1\0\0\0\0\0\0" + labels + b"\0\0\1\0\1"


async def ask(client, name):
    reader, writer = await client.create_stream()
    query = question(name)
    writer.write(struct.pack("!H", len(query)) + query)
    writer.write_eof()
    reply = await reader.read()
    assert struct.unpack("!H", reply[:2])[0] == len(reply) - 2
    return reply[2:]


async def main(address, port, ca, server, *names):
    configuration = QuicConfiguration(is_client=True, alpn_protocols=["doq"], server_name=server)
    configuration.load_verify_locations(ca)
    async with connect(address, int(port), configuration=configuration) as client:
        for reply in await asyncio.gather(*(ask(client, name) for name in names)):
            print(reply.hex())


asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 20))
