# SPDX-License-Identifier: Apache-2.0
"""Runs a command and says what it cost: wall seconds and CPU seconds (user + system) of it and all that it started.

Processes that a command leaves behind are handed to us (PR_SET_CHILD_SUBREAPER) and waited for, so that a daemonised child,
like the QEMU of libguestfs, is counted as well.
"""
import ctypes, os, resource, signal, subprocess, time

PR_SET_CHILD_SUBREAPER = 36
ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Cost:
    def __init__(self, wall, user, system, code, output):
        self.wall, self.user, self.system, self.code, self.output = wall, user, system, code, output

    @property
    def cpu(self):
        return self.user + self.system

    def json(self):
        return {"wall": round(self.wall, 2), "cpu": round(self.cpu, 2), "user": round(self.user, 2), "system": round(self.system, 2), "exit": self.code}


def reap(patience):
    """Waits for what was left behind; what does not end by itself within `patience` seconds is told to."""
    limit = time.monotonic() + patience
    while True:
        try:
            pid, _ = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            if time.monotonic() > limit:
                for child in children():
                    os.kill(child, signal.SIGTERM)
                limit = time.monotonic() + patience
            time.sleep(0.05)


def children():
    task = f"/proc/self/task/{os.getpid()}/children"
    return [int(p) for p in open(task).read().split()] if os.path.exists(task) else []


def run(argv, env=None, expect=(0,)):
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    # A pipe would stay open in children that live on; a file does not keep us waiting.
    log = os.path.join(os.environ.get("TMPDIR", "/tmp"), f"kvmport-bench-{os.getpid()}.log")
    with open(log, "w+b") as out:
        code = subprocess.run([str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}).returncode
        wall = time.monotonic() - start
        reap(20)
        out.seek(0)
        text = out.read().decode(errors="replace")
    os.unlink(log)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if code not in expect:
        raise SystemExit(f"{' '.join(map(str, argv))}: exit {code}\n{text[-4000:]}")
    return Cost(wall, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime, code, text)


def table(head, rows):
    widths = [max(len(str(r[i])) for r in [head, *rows]) for i in range(len(head))]
    for row in [head, *rows]:
        print("  ".join(str(c).ljust(w) if i == 0 else str(c).rjust(w) for i, (c, w) in enumerate(zip(row, widths))), flush=True)
