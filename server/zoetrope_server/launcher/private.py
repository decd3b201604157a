"""Starts a program whose files are for its user alone.

A script (`python -I -S private.py PROGRAM ARGUMENT...`, standard library only) that becomes the program. A
umask alone would not do: the pages of Triton's python backend, which hold what users send, are made by Boost,
and that sets their mode to 0644 once more with fchmod. A filter of the kernel lets this one call do nothing.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import struct
import subprocess
import sys

_FCHMOD = {"x86_64": (0xC000003E, 91), "aarch64": (0xC00000B7, 52)}
"""By machine: AUDIT_ARCH of linux/audit.h, and the number of the system call."""
_PUBLIC = 0o644
_NO_NEW_PRIVS, _SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUAL, _RETURN = 0x20, 0x15, 0x06  # BPF: a word of seccomp_data, compare with a constant, return one
_NUMBER, _ARCHITECTURE, _SECOND_ARGUMENT = 0, 4, 24  # offsets in seccomp_data
_ALLOW, _DO_NOTHING = 0x7FFF0000, 0x00050000  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO with the error 0


def keep_pages_private() -> bool:
    """Makes fchmod to 0644 do nothing in this process and its children; whether the kernel does so."""
    if platform.machine() not in _FCHMOD:
        return False
    architecture, fchmod = _FCHMOD[platform.machine()]
    code = (
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 0, 5, architecture),
        (_LOAD, 0, 0, _NUMBER),
        (_EQUAL, 0, 3, fchmod),
        (_LOAD, 0, 0, _SECOND_ARGUMENT),
        (_EQUAL, 0, 1, _PUBLIC),
        (_RETURN, 0, 0, _DO_NOTHING),
        (_RETURN, 0, 0, _ALLOW),
    )
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in code))
    program = struct.pack("HP", len(code), ctypes.addressof(instructions))  # struct sock_fprog
    prctl = ctypes.CDLL(None).prctl
    if prctl(_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    done: int = prctl(_SECCOMP, _FILTER, program, 0, 0)
    return done == 0


def make_cuda_devices() -> None:
    """Has the devices made that CUDA makes at its first use: its setuid helper cannot after the filter."""
    helper = shutil.which("nvidia-modprobe")
    if helper and os.path.exists("/dev/nvidiactl") and not os.path.exists("/dev/nvidia-uvm"):
        subprocess.run([helper, "-c=0", "-u"], check=False)


def main(command: list[str]) -> None:
    """Becomes the program."""
    os.umask(0o077)
    make_cuda_devices()
    if not keep_pages_private():
        sys.stderr.write("other users of this machine can read the shared memory: no seccomp here\n")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1:])
