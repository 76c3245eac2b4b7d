"""What ztunnel does in a pod: takes connections on 15001, in sockets with its mark, and carries them to where they were going."""

import socket
import threading

MARK = 0x539


def marked(family):
    made = socket.socket(family, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, MARK)
    return made


def carry(source, sink):
    try:
        while True:
            data = source.recv(65536)
            if not data:
                break
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(client):
    # SO_ORIGINAL_DST of an IPv4 connection: family, port, address.
    told = client.getsockopt(socket.SOL_IP, 80, 16)
    to = (socket.inet_ntoa(told[4:8]), int.from_bytes(told[2:4], "big"))
    server = marked(socket.AF_INET)
    server.connect(to)
    threading.Thread(target=carry, args=(server, client), daemon=True).start()
    carry(client, server)


listener = marked(socket.AF_INET)
listener.bind(("0.0.0.0", 15001))
listener.listen()
print('{"ready": true}')
while True:
    client, _ = listener.accept()
    print('{"captured": true}')
    threading.Thread(target=serve, args=(client,), daemon=True).start()
