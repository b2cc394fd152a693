"""A journald of one's own, and programs that write to it: run in a mount namespace in which /run is empty and /run/log/journal is a folder of the test.

A line of standard input is one command as JSON, and a line of standard output answers it. It ends with its standard input, and journald with it.
"""

import base64
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time

ADDRESS = "/run/systemd/journal/socket"
PR_SET_PDEATHSIG = 1
BOOT_ID = "/proc/sys/kernel/random/boot_id"
SETTINGS = """[Journal]
Storage=volatile
Audit=
ReadKMsg=no
RateLimitBurst=0
SplitMode=none
RuntimeKeepFree=1K
RuntimeMaxUse=1G
ForwardToSyslog=no
ForwardToKMsg=no
ForwardToConsole=no
ForwardToWall=no
"""


def end_with_parent():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def start():
    daemon = subprocess.Popen(["/lib/systemd/systemd-journald"], stdout=sys.stderr, preexec_fn=end_with_parent)
    while not os.path.exists(ADDRESS):
        if daemon.poll() is not None:
            sys.exit(f"journald ended at its start: {daemon.returncode}")
        time.sleep(0.01)
    return daemon


def stop(daemon):
    daemon.terminate()
    daemon.wait()
    if os.path.exists(ADDRESS):
        os.unlink(ADDRESS)


def payload(fields):
    """The native protocol of journald (systemd.io/JOURNAL_NATIVE_PROTOCOL): the form that a value of any bytes has."""
    parts = []
    for name, value in fields:
        data = base64.b64decode(value)
        parts += [name.encode(), b"\n", struct.pack("<Q", len(data)), data, b"\n"]
    return b"".join(parts)


def send(entries):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as out:
        out.connect(ADDRESS)
        for fields in entries:
            data = payload(fields)
            if len(data) < 100_000:
                out.send(data)
                continue
            # What is too large for a datagram is in a sealed file.
            file = os.memfd_create("entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            view = memoryview(data)
            while view:
                view = view[os.write(file, view) :]
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, 0xF)
            out.sendmsg([], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file))])
            os.close(file)


def send_as(unit, entries):
    """From a process of its own, which journald finds in the unit's cgroup: the kernel's answer to which that is, is covered by ours."""
    child = os.fork()
    if child == 0:
        cgroup = f"/run/cgroup-{os.getpid()}"
        with open(cgroup, "w") as file:
            file.write(f"0::/system.slice/{unit}\n")
        subprocess.run(["mount", "--bind", cgroup, f"/proc/{os.getpid()}/cgroup"], check=True)
        send(entries)
        # journald looks while the sender is there.
        subprocess.run(["journalctl", "--sync"], check=True)
        os._exit(0)
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError(f"no entries as {unit}")


def main():
    os.makedirs("/run/systemd/journald.conf.d")
    os.makedirs("/run/systemd/journal")
    with open("/run/systemd/journald.conf.d/test.conf", "w") as file:
        file.write(SETTINGS)
    daemon = start()
    print("ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        if command["do"] == "send" and command["unit"] is not None:
            send_as(command["unit"], command["entries"])
        elif command["do"] == "send":
            send(command["entries"])
            subprocess.run(["journalctl", "--sync"], check=True)
        elif command["do"] == "rotate":
            subprocess.run(["journalctl", "--rotate"], check=True)
        elif command["do"] == "boot":
            stop(daemon)
            with open("/run/boot_id", "w") as file:
                file.write(f"{command['id']}\n")
            subprocess.run(["mount", "--bind", "/run/boot_id", BOOT_ID], check=True)
            daemon = start()
        print("done", flush=True)
    stop(daemon)


main()
