# Makes an ipset of type hash:ip (linux/netfilter/ipset/ip_set.h) without the ipset tool.
import socket, struct, sys


def attribute(kind, value):
    length = 4 + len(value)
    return struct.pack("<HH", length, kind) + value + b"\0" * (-length % 4)


data = attribute(1, b"\6") + attribute(2, sys.argv[1].encode() + b"\0") + attribute(3, b"hash:ip\0")
data += attribute(4, b"\0") + attribute(5, bytes([socket.AF_INET])) + attribute(7 | 0x8000, b"")
body = struct.pack("<BBH", socket.AF_INET, 0, 0) + data
message = struct.pack("<IHHII", 16 + len(body), 6 << 8 | 2, 0x1 | 0x4, 1, 0) + body
link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
link.send(message)
answer = struct.unpack_from("<i", link.recv(4096), 16)[0]
sys.exit(f"the kernel answers {answer}" if answer else 0)
