"""RDMA devices as the kernel sees and keeps them: what processes hold of them, their addresses, and how to break their links.

For the virtual machine (tests/rdma/vm), in which a device sits on a netdev roceN with a peer wireN at the other end of its cable. What
these functions change, the caller changes back, for instance with addCleanup().
"""

import ipaddress
import json
import os
import subprocess

DEVICES = "/sys/class/infiniband"
KINDS = ("qp", "mr", "cq", "pd")


def _shown(*arguments):
    """What the program rdma (package iproute2) shows."""
    shown = subprocess.run(["rdma", "-j", *arguments], check=True, capture_output=True, text=True)
    return json.loads(shown.stdout or "[]")


def devices():
    """The names of this machine's RDMA devices, in the order in which they were made."""
    if not os.path.isdir(DEVICES) or not os.listdir(DEVICES):
        return []
    return [row["ifname"] for row in sorted(_shown("link", "show"), key=lambda row: row["ifindex"])]


def why_not(count=1):
    """Why tests with `count` RDMA devices cannot run here, or None."""
    if len(devices()) >= count:
        return None
    return f"this needs {count} RDMA devices: ./run rdma --devices {count} -- COMMAND runs it in a virtual machine that has them"


def _read(device, *path):
    with open(os.path.join(DEVICES, device, *path), encoding="ascii") as file:
        return file.read().strip()


def _ip(*arguments):
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def netdev(device):
    """The network device that an RDMA device sits on; it stays the same while the link is down."""
    return _shown("link", "show", f"{device}/1")[0]["netdev"]


def cable(device):
    """The other end of the cable in which the device's netdev is."""
    return netdev(device).replace("roce", "wire", 1)


def held(pid=None, device=None):
    """{"qp": …, "mr": …, "cq": …, "pd": …}: how many of each the kernel has for a process, without one: for all, on one device or on all.

    The kernel knows the thread that made a thing: what an ended thread has made is in the sum of all only.
    """
    threads = None
    if pid is not None:
        gone = not os.path.isdir(f"/proc/{pid}")
        threads = {pid} if gone else {int(thread) for thread in os.listdir(f"/proc/{pid}/task")}
    counts = {}
    for kind in KINDS:
        # What the kernel itself has on each device has no process.
        rows = [row for row in _shown("resource", "show", kind) if "pid" in row and device in (None, row["ifname"])]
        counts[kind] = sum(1 for row in rows if threads is None or row["pid"] in threads)
    return counts


def addresses(device):
    """{GID index: IP address} of the device's RoCE v2 addresses. An index does not last: it may change when an address goes and comes."""
    found = {}
    for name in os.listdir(os.path.join(DEVICES, device, "ports", "1", "gids")):
        try:
            if _read(device, "ports", "1", "gid_attrs", "types", name) != "RoCE v2":
                continue
            gid = ipaddress.IPv6Address(_read(device, "ports", "1", "gids", name))
        except OSError:  # an index without an address
            continue
        found[int(name)] = str(gid.ipv4_mapped or gid)
    return found


def gid_index(device, address=None):
    """The GID index of an address of the device, without one: of its first IPv4 address over RoCE v2."""
    for index, one in sorted(addresses(device).items()):
        if one == address or (address is None and "." in one):
            return index
    raise LookupError(f"{device} has no RoCE v2 address {address or 'of IPv4'}: {addresses(device)}")


def active(device):
    return _read(device, "ports", "1", "state").endswith("ACTIVE")


def packets_sent():
    """By all soft-RoCE devices so far."""
    return sum(int(_read(device, "ports", "1", "hw_counters", "sent_pkts")) for device in devices())


def set_link(device, up, far=False):
    """Takes the device's link down or up: its own netdev, or the far end of its cable, as if that were pulled."""
    _ip("link", "set", cable(device) if far else netdev(device), "up" if up else "down")


def add_address(device, address):
    """`address` with the length of its network, as in 10.1.0.1/24."""
    _ip("addr", "add", address, "dev", netdev(device))


def remove_address(device, address):
    _ip("addr", "del", address, "dev", netdev(device))


def set_loss(device, percent):
    """Loses so many of the packets on their way to the device; 0 ends that."""
    link = cable(device)
    if percent:
        # The usual limit of netem's queue would lose more.
        command = ["tc", "qdisc", "replace", "dev", link, "root", "netem", "loss", f"{percent}%", "limit", "100000"]
    else:
        command = ["tc", "qdisc", "del", "dev", link, "root"]
    subprocess.run(command, check=True, capture_output=True, text=True)
