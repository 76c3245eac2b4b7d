"""A hand-made HBONE client and server for the lab, on Python's own TLS: nothing of it is shared with the agent.

usage: hbone.py JSON, an object with
  role        "client" or "server"
  at          [address, port] to connect to or to listen at
  certificate [chain, key] or null
  root        file, or null to believe anybody
  authority   of the CONNECT a client sends; null: it only waits for the server's SETTINGS
  inner       for a client: {"certificate", "root", "authority"} of a second TLS inside the first stream
  alpn        list of protocols, ["h2"] when absent
  payload     text a client sends on its (inner) stream; it waits for as many bytes back
Prints one line of JSON per event: {"event": ..., ...}.
"""

import json
import socket
import ssl
import struct
import sys
import threading

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
STATIC_STATUS = {8: "200", 9: "204", 10: "206", 11: "304", 12: "400", 13: "404", 14: "500"}
HUFFMAN_DIGITS = {"00000": "0", "00001": "1", "00010": "2", "011001": "3", "011010": "4", "011011": "5",
                  "011100": "6", "011101": "7", "011110": "8", "011111": "9"}


def say(event, **more):
    print(json.dumps({"event": event, **more}), flush=True)


def context(config, server):
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    tls.check_hostname = False
    tls.set_alpn_protocols(config.get("alpn") or ["h2"])
    if config.get("root"):
        tls.verify_mode = ssl.CERT_REQUIRED
        tls.load_verify_locations(config["root"])
    else:
        tls.verify_mode = ssl.CERT_NONE
    if config.get("certificate"):
        tls.load_cert_chain(*config["certificate"])
    return tls


def identity(tls):
    names = (tls.getpeercert() or {}).get("subjectAltName", ())
    return next((value for kind, value in names if kind == "URI"), None)


class Inner:
    """TLS over another transport's send and receive."""

    def __init__(self, below, config):
        self.below, self.read, self.write = below, ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context(config, False).wrap_bio(self.read, self.write)
        self.step(self.tls.do_handshake)

    def step(self, what, *args):
        while True:
            try:
                done = what(*args)
                self.flush()
                return done
            except ssl.SSLWantReadError:
                self.flush()
                got = self.below.recv(65536)
                if got:
                    self.read.write(got)
                else:
                    self.read.write_eof()
            except ssl.SSLError:
                self.flush()
                raise

    def flush(self):
        if self.write.pending:
            self.below.sendall(self.write.read())

    def sendall(self, data):
        self.step(self.tls.write, data)

    def recv(self, size):
        try:
            return self.step(self.tls.read, size)
        except ssl.SSLEOFError:
            return b""

    def getpeercert(self):
        return self.tls.getpeercert()


class H2:
    """One HTTP/2 connection with frames built by hand (RFC 9113)."""

    def __init__(self, transport):
        self.transport, self.pending, self.body, self.ended = transport, b"", b"", False

    def frame(self, kind, flags, stream, payload=b""):
        self.transport.sendall(struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload)

    def exactly(self, size):
        while len(self.pending) < size:
            got = self.transport.recv(65536)
            if not got:
                raise EOFError("the peer closed the connection")
            self.pending += got
        head, self.pending = self.pending[:size], self.pending[size:]
        return head

    def next(self):
        """The next frame that is not about the connection itself."""
        while True:
            head = self.exactly(9)
            size, kind, flags = int.from_bytes(head[:3], "big"), head[3], head[4]
            stream, payload = int.from_bytes(head[5:], "big"), self.exactly(size)
            if kind == SETTINGS and not flags & 1:
                self.frame(SETTINGS, 1, 0)
                return kind, stream, payload
            if kind == PING and not flags & 1:
                self.frame(PING, 1, 0, payload)
            elif kind == GOAWAY:
                say("goaway", code=int.from_bytes(payload[4:8], "big"))
            elif kind in (DATA, HEADERS, RST):
                if kind == DATA and payload:
                    for window in (0, stream):
                        self.frame(8, 0, window, struct.pack(">I", len(payload)))
                self.ended = bool(flags & 1)
                return kind, stream, payload

    def until_settings(self):
        while self.next()[0] != SETTINGS:
            pass

    def connect(self, authority, stream=1):
        """Sends CONNECT with literal headers; answers the status."""
        headers = b""
        for index, value in ((2, "CONNECT"), (1, authority)):
            headers += bytes((index, len(value))) + value.encode()
        self.frame(HEADERS, 4, stream, headers)
        while True:
            kind, _, payload = self.next()
            if kind == HEADERS:
                return status(payload)
            if kind == RST:
                return "reset %d" % int.from_bytes(payload[:4], "big")

    # A CONNECT stream as a transport of its own.
    def sendall(self, data):
        for at in range(0, len(data), 16384):
            self.frame(DATA, 0, 1, data[at:at + 16384])

    def recv(self, size):
        while not self.body:
            if self.ended:
                return b""
            kind, _, payload = self.next()
            if kind == DATA:
                self.body += payload
            elif kind == RST:
                raise ConnectionResetError("the stream was reset: %d" % int.from_bytes(payload[:4], "big"))
        head, self.body = self.body[:size], self.body[size:]
        return head


def status(block):
    """The :status of a header block whose first field it is (RFC 7541)."""
    while block and block[0] & 0xe0 == 0x20:
        block = block[1:]
    if block[0] & 0x80:
        return STATIC_STATUS.get(block[0] & 0x7f, "?")
    size, coded = block[1] & 0x7f, block[1] & 0x80
    value = block[2:2 + size]
    if not coded:
        return value.decode()
    bits, text, code = "".join(f"{byte:08b}" for byte in value), "", ""
    for bit in bits:
        code += bit
        if code in HUFFMAN_DIGITS:
            text, code = text + HUFFMAN_DIGITS[code], ""
    return text


def authority_of(block):
    """The literal :authority of a CONNECT, good enough to be shown."""
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in block)


def speak(transport, config, where):
    say("tls", where=where, identity=identity(transport))
    h2 = H2(transport)
    transport.sendall(PREFACE)
    h2.frame(SETTINGS, 0, 0)
    h2.until_settings()
    say("settings", where=where)
    if not config.get("authority"):
        return None
    answer = h2.connect(config["authority"])
    say("status", where=where, status=answer)
    return h2 if answer == "200" else None


def client(config):
    raw = socket.create_connection(config["at"], timeout=8)
    where = "outer" if config.get("inner") else "only"
    try:
        stream = speak(context(config, False).wrap_socket(raw), config, where)
        if stream and config.get("inner"):
            where = "inner"
            stream = speak(Inner(stream, config["inner"]), config["inner"], where)
        if stream and config.get("payload"):
            payload = config["payload"].encode()
            stream.sendall(payload)
            back = b""
            while len(back) < len(payload):
                got = stream.recv(65536)
                if not got:
                    raise EOFError("the stream ended")
                back += got
            say("payload", back=back.decode())
            if config.get("stay"):
                sys.stdin.read()
    except (OSError, EOFError) as error:
        say("failed", where=where, error=str(error))


def serve(tls):
    say("tls", where="server", identity=identity(tls))
    h2 = H2(tls)
    h2.exactly(len(PREFACE))
    h2.frame(SETTINGS, 0, 0)
    while True:
        kind, stream, payload = h2.next()
        if kind == HEADERS:
            say("connect", headers=authority_of(payload))
            h2.frame(HEADERS, 4, stream, b"\x88")
        elif kind == DATA:
            h2.frame(DATA, 1 if h2.ended else 0, stream, payload)


def server(config):
    family = socket.AF_INET6 if ":" in config["at"][0] else socket.AF_INET
    listener = socket.create_server(tuple(config["at"]), family=family, dualstack_ipv6=family == socket.AF_INET6)
    tls = context(config, True)
    say("listening")
    while True:
        raw, peer = listener.accept()
        say("accepted", peer=peer[0])
        threading.Thread(target=serve_one, args=(tls, raw), daemon=True).start()


def serve_one(tls, raw):
    try:
        serve(tls.wrap_socket(raw, server_side=True))
    except (OSError, EOFError) as error:
        say("failed", where="server", error=str(error))
    finally:
        raw.close()


if __name__ == "__main__":
    config = json.loads(sys.argv[1])
    {"client": client, "server": server}[config["role"]](config)
