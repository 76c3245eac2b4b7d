"""A stand-in for ztunnel, which no registry of ours has: to istio-cni it says what ztunnel says, hello and that all is well (ZDS),
and carries nothing. So istio-cni makes its rules, and what they capture is refused."""

import socket
import time

HELLO = b"\x08\x01"  # ZdsHello{version: V1}
DONE = b"\x0a\x00"  # WorkloadResponse{ack: Ack{}}

while True:
    zds = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        zds.connect("/var/run/ztunnel/ztunnel.sock")
        zds.send(HELLO)
        while zds.recv(1024):
            zds.send(DONE)
    except OSError:
        pass
    zds.close()
    time.sleep(0.1)
