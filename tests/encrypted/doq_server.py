"""DNS over QUIC (RFC 9250) on aioquic, for tests: every A question has the answer 198.51.100.53.

doq_server.py ADDRESS PORT CERTIFICATE KEY
"""

import asyncio
import struct
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import StreamDataReceived


def answer(query):
    end = 12
    while query[end]:
        end += query[end] + 1
    end += 5
    # RFC 9250 section 4.2.1: the id is zero.
    assert query[:2] == b"\0\0" and query[4:6] == b"\0\1"
    is_a = query[end - 4 : end] == b"\0\1\0\1"
    head = query[:2] + b"\x81\x80\0\1" + struct.pack("!HHH", is_a, 0, 0)
    record = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + bytes([198, 51, 100, 53])
    return head + query[12:end] + (record if is_a else b"")


class Doq(QuicConnectionProtocol):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.received = {}

    def quic_event_received(self, event):
        if not isinstance(event, StreamDataReceived):
            return
        octets = self.received.pop(event.stream_id, b"") + event.data
        if not event.end_stream:
            self.received[event.stream_id] = octets
            return
        assert struct.unpack("!H", octets[:2])[0] == len(octets) - 2
        reply = answer(octets[2:])
        self._quic.send_stream_data(event.stream_id, struct.pack("!H", len(reply)) + reply, end_stream=True)
        self.transmit()


async def main(address, port, certificate, key):
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["doq"])
    configuration.load_cert_chain(certificate, key)
    await serve(address, int(port), configuration=configuration, create_protocol=Doq)
    await asyncio.Event().wait()


asyncio.run(main(*sys.argv[1:]))
