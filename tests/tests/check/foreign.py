# Attaches a program of somebody else: `cgroup DIRECTORY NAME`, `lookup NETNS NAME` or `egress LINK NAME`. Prints a line of
# JSON once it stands and keeps it until its standard input ends.
import ctypes, os, socket, struct, sys

kind, path, name = sys.argv[1:4]
PROG_LOAD, LINK_CREATE = 5, 28
program_type, attach_type = {"cgroup": (18, 10), "lookup": (30, 36), "egress": (3, 47)}[kind]
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attribute):
    space = ctypes.create_string_buffer(attribute, 128)
    answer = libc.syscall(321 if os.uname().machine == "x86_64" else 280, command, space, 128)
    if answer < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return answer


# r0 = 1; exit: let pass.
code = ctypes.create_string_buffer(bytes.fromhex("b7000000010000009500000000000000"), 16)
licence = ctypes.create_string_buffer(b"GPL")
load = struct.pack("<IIQQIIQII16sII", program_type, 2, ctypes.addressof(code), ctypes.addressof(licence), 0, 0, 0, 0, 0,
                   name.encode()[:15], 0, 0 if kind == "egress" else attach_type)
program = bpf(PROG_LOAD, load)
target = socket.if_nametoindex(path) if kind == "egress" else os.open(path, os.O_RDONLY)
bpf(LINK_CREATE, struct.pack("<IIII", program, target, attach_type, 0))
print('{"attached": true}', flush=True)
sys.stdin.read()
