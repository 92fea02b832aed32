"""The command as others call it: with plugins of one file, with and without a terminal."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "benchmarks.cli"]
FAST = ["protocol.valid_images=60", "protocol.calibration_images=60"]


def installed(site, source, module="badbits", plugin="badbits"):
    """Make a folder one in which a plugin of one file is installed as a distribution."""
    (site / f"{module}.py").write_text(source)
    info = site / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[juxtabit.frameworks]\n{plugin} = {module}\n")
    return site


def environment(site, cache, **others):
    """The variables of a process that finds this checkout and what is installed in a folder."""
    paths = [str(ROOT), str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "JUXTABIT_CACHE": str(cache),
        "OMP_NUM_THREADS": "1",
        **others,
    }


def heard():
    """In a new process: interrupts count, also where tests run in the background of a script."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _on_terminal():
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    heard()


class Terminal:
    """The command on a terminal of some columns; what it shows is read as it comes."""

    def __init__(self, arguments, folder, environment, columns, command=COMMAND):
        self.main, child = pty.openpty()
        self.resize(columns)
        self.text = ""
        self.process = subprocess.Popen(
            [*command, *arguments], cwd=folder, env=environment, stdin=child, stdout=child,
            stderr=child, start_new_session=True,
            preexec_fn=_on_terminal,
        )  # fmt: skip
        os.close(child)

    def resize(self, columns):
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))

    def read(self, seconds):
        if select.select([self.main], [], [], seconds)[0]:
            try:
                found = os.read(self.main, 65536).decode(errors="replace")
            except OSError:  # the other side is closed
                return False
            self.text += found
            return bool(found)
        return True

    def until(self, pattern, seconds=120, after=0):
        """Read until something is shown."""
        end = time.monotonic() + seconds
        while not re.search(pattern, plain(self.text[after:])):
            assert time.monotonic() < end, f"no {pattern} in {self.text[-2000:]}"
            assert self.read(0.2), f"ended without {pattern}: {self.text[-2000:]}"
        return len(self.text)

    def ended(self, seconds=120):
        """Read to the end; the exit code."""
        end = time.monotonic() + seconds
        while self.read(0.2):
            assert time.monotonic() < end, self.text[-2000:]
        return self.process.wait(seconds)

    def gone(self):
        """Take the terminal away, as where a connection is lost."""
        os.close(self.main)
        self.main = None

    def close(self):
        self.process.kill()
        self.process.wait()
        if self.main is not None:
            os.close(self.main)


def plain(text):
    """What is shown, without the codes that steer the terminal."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def below(process):
    return psutil.Process(process.pid).children(recursive=True)


def process(number):
    """A process by its number; None if there is none."""
    try:
        return psutil.Process(number)
    except psutil.NoSuchProcess:
        return None


def gone(processes, seconds=5):
    """Those that do not end within some seconds."""
    return psutil.wait_procs([one for one in processes if one], timeout=seconds)[1]


def waited(condition, seconds=120):
    """Wait until something is there, and give it."""
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.05)
    return found
