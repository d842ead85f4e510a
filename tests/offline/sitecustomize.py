"""No network for any Python that starts with this folder on PYTHONPATH: only this machine can be reached.

Kernels talk to their client through ZeroMQ, which does not pass through Python's ``socket``; so they still work. What
is raised is the error of a machine without a network, because code may rightly do something else where there is none.
"""

import errno
import ipaddress
import socket

BLOCKED = "the network is blocked in this test run"


def _is_local(host):
    if host in (None, "", b"", "localhost", b"localhost", socket.gethostname()):
        return True
    try:
        return ipaddress.ip_address(host.decode() if isinstance(host, bytes) else host).is_loopback
    except ValueError:
        return False


def _refuse(host):
    raise OSError(errno.ENETUNREACH, f"{BLOCKED}: {host}")


def _guard_method(name, address_of):
    original = getattr(socket.socket, name)

    def guarded(self, *args):
        address = address_of(args)
        if self.family in (socket.AF_INET, socket.AF_INET6) and address and not _is_local(address[0]):
            _refuse(address[0])
        return original(self, *args)

    setattr(socket.socket, name, guarded)


def _guard_lookup(name):
    original = getattr(socket, name)

    def guarded(host, *args, **kwargs):
        if not _is_local(host):
            _refuse(host)
        return original(host, *args, **kwargs)

    setattr(socket, name, guarded)


for _name in ("connect", "connect_ex"):
    _guard_method(_name, lambda args: args[0])
_guard_method("sendto", lambda args: args[-1])
_guard_method("sendmsg", lambda args: args[3] if len(args) > 3 else None)
for _name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    _guard_lookup(_name)
socket.BLOCKED = BLOCKED
