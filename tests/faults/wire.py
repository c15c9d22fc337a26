"""A cable between two interfaces that can be told to fail: what `tc netem` does, where the kernel has no netem.

    wire.py INTERFACE INTERFACE

carries every Ethernet frame from one to the other. A line of JSON on standard input replaces what it does to them:

    {"loss": 0.01, "delay_ms": 50, "reorder": 0.2, "mtu": 900, "bytes_per_second": 1000000}

loss: that share of the frames is dropped (1: a black hole). delay_ms: each comes later by that much. reorder: that share of them
comes later still, behind others. mtu: larger IPv4 packets are dropped and their sender is told so, as a router does.
bytes_per_second: no faster than that, a queue of a tenth of a second before frames are dropped. Every key may be left out.
Each line is answered by one, once it holds.

Frames pass with their offload header (PACKET_VNET_HDR): the kernels at both ends send up to 64 KiB at once and compute no checksums.
"""

import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time

SOL_PACKET = 263
PACKET_VNET_HDR = 15
SO_RCVBUFFORCE = 33
ETH_P_ALL = 3
OFFLOAD_BYTES = 10  # struct virtio_net_hdr: flags, type, header length, segment size, two of the checksum
ETHERNET_BYTES = 14
IPV4 = b"\x08\x00"


def open_end(interface):
    end = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    end.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    end.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 32 << 20)
    end.bind((interface, ETH_P_ALL))
    end.setblocking(False)
    return end


def checksum(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def too_large(frame, mtu):
    """Whether an IPv4 packet, or a segment of one that is yet to be cut, is larger than `mtu`."""
    if frame[OFFLOAD_BYTES + 12:OFFLOAD_BYTES + 14] != IPV4:
        return False
    segment = struct.unpack_from("=H", frame, 4)[0] if frame[1] else 0
    headers = struct.unpack_from("=H", frame, 2)[0] - ETHERNET_BYTES
    size = segment + headers if segment else len(frame) - OFFLOAD_BYTES - ETHERNET_BYTES
    return size > mtu


def refusal(frame, mtu):
    """ICMP "fragmentation needed", back to the sender of `frame`, in the name of its destination."""
    ethernet, packet = frame[OFFLOAD_BYTES:OFFLOAD_BYTES + ETHERNET_BYTES], frame[OFFLOAD_BYTES + ETHERNET_BYTES:]
    quoted = packet[:28]
    body = struct.pack("!BBHHH", 3, 4, 0, 0, mtu) + quoted
    body = body[:2] + struct.pack("!H", checksum(body)) + body[4:]
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, 64, 1, 0, packet[16:20], packet[12:16])
    header = header[:10] + struct.pack("!H", checksum(header)) + header[12:]
    return bytes(OFFLOAD_BYTES) + ethernet[6:12] + ethernet[:6] + IPV4 + header + body


class Cable:
    def __init__(self, first, second):
        self.ends = [open_end(first), open_end(second)]
        self.rule = {}
        self.chance = random.Random(1)
        self.later = []  # (when, number, end, frame)
        self.number = 0
        self.free_at = [0.0, 0.0]  # when the direction has sent what it has taken on

    def carry(self):
        waiting = select.poll()
        for source in (sys.stdin, *self.ends):
            waiting.register(source, select.POLLIN)
        ends = {end.fileno(): index for index, end in enumerate(self.ends)}
        while True:
            timeout = max(0.0, self.later[0][0] - time.monotonic()) * 1000 if self.later else None
            for descriptor, _ in waiting.poll(timeout):
                if descriptor in ends:
                    self.take(ends[descriptor])
                elif not self.obey():
                    return
            now = time.monotonic()
            while self.later and self.later[0][0] <= now:
                _, _, end, frame = heapq.heappop(self.later)
                self.send(end, frame)

    def obey(self):
        line = sys.stdin.readline()
        if not line:
            return False
        self.rule = json.loads(line)
        print("ok", flush=True)
        return True

    def take(self, index):
        for _ in range(64):  # then the other direction, and orders
            try:
                frame, address = self.ends[index].recvfrom(1 << 17)
            except BlockingIOError:
                return
            except OSError:  # the interface is down
                return
            if address[2] != socket.PACKET_OUTGOING:
                self.pass_on(index, frame)

    def pass_on(self, index, frame):
        rule = self.rule
        if self.chance.random() < rule.get("loss", 0):
            return
        if too_large(frame, rule.get("mtu", 1 << 20)):
            self.send(self.ends[index], refusal(frame, rule["mtu"]))
            return
        delay = rule.get("delay_ms", 0) / 1000
        if self.chance.random() < rule.get("reorder", 0):
            delay += 0.003
        if "bytes_per_second" in rule:
            now = time.monotonic()
            begin = max(now, self.free_at[index])
            if begin > now + 0.1:
                return
            self.free_at[index] = begin + len(frame) / rule["bytes_per_second"]
            delay += self.free_at[index] - now
        other = self.ends[1 - index]
        if delay == 0:
            self.send(other, frame)
        else:
            self.number += 1
            heapq.heappush(self.later, (time.monotonic() + delay, self.number, other, frame))

    @staticmethod
    def send(end, frame):
        try:
            end.send(frame)
        except OSError:  # the interface is down, or its queue is full: frames get lost on cables
            pass


if __name__ == "__main__":
    cable = Cable(sys.argv[1], sys.argv[2])
    sys.stdin = os.fdopen(0, "r", buffering=1)
    print("ready", flush=True)
    cable.carry()
