"""What is printed, by Python, C and other programs, led elsewhere: in a process of its own."""

import subprocess
import sys

from benchmarks.workers.capture import LONGEST, text_of

PRINTS = """
import ctypes, os, subprocess, sys
from pathlib import Path
from benchmarks.workers.capture import Held, printed_to

def everywhere(word):
    print(word, "python")
    print(word, "error", file=sys.stderr)
    ctypes.CDLL(None).puts(f"{word} c".encode())
    subprocess.run(["echo", word, "program"], check=True)

"""


def printed(code, folder):
    done = subprocess.run(
        [sys.executable, "-c", PRINTS + code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": ":".join(["", *sys.path])}, cwd=folder,
    )  # fmt: skip
    return sorted(done.stdout.splitlines()), sorted(done.stderr.splitlines())


def four(word):
    return sorted(f"{word} {way}" for way in ("python", "error", "c", "program"))


def test_a_part_goes_to_its_file_and_the_rest_where_it_went(tmp_path):
    code = (
        "everywhere('before')\nwith printed_to(Path('logs/part')):\n    everywhere('within')\n"
        "with printed_to(Path('logs/part')):\n    everywhere('again')\neverywhere('after')"
    )
    out, err = printed(code, tmp_path)
    assert sorted(out + err) == sorted(four("before") + four("after"))
    assert err == ["after error", "before error"]
    lines = (tmp_path / "logs/part").read_text().splitlines()
    assert sorted(lines) == sorted(four("within") + four("again"))
    assert {line.split()[0] for line in lines[:4]} == {"within"}, "none is held back till later"


def test_where_no_file_can_be_made_it_goes_on(tmp_path):
    (tmp_path / "taken").write_text("")
    out, err = printed("with printed_to(Path('taken/part')):\n    everywhere('x')", tmp_path)
    assert sorted(out + err) == four("x")


def test_what_is_held_is_read_once_and_the_stream_leads_past_it(tmp_path):
    code = (
        "with Held() as held:\n    everywhere('a')\n    print('shown', file=held.stream)\n"
        "    first = held.read()\n    everywhere('b')\n    second = held.read()\n"
        "    third = held.read()\n"
        "print(sorted(first.splitlines()), sorted(second.splitlines()), repr(third))"
    )
    out, err = printed(code, tmp_path)
    assert err == ["shown"]
    assert out == [f"{four('a')} {four('b')} ''"]


def test_too_much_is_shortened_in_the_middle():
    text = text_of(b"a" * LONGEST + b"b" * LONGEST)
    assert text.startswith("a" * (LONGEST // 2))
    assert text.endswith("b" * (LONGEST // 2))
    assert f"({LONGEST} bytes left out)" in text
    assert text_of(b"caf\xe9") == "caf�"
