"""A short part of the fuzz run of relay and control frames; EXCAMERA_FUZZ=1000000 is the whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from fuzz_frames import SHARES


def test_mutated_frames_cause_typed_errors_alone() -> None:
    """By itself, for its memory is measured."""
    count = int(os.environ.get("EXCAMERA_FUZZ", "6000"))
    script = str(Path(__file__).with_name("fuzz_frames.py"))
    command = [sys.executable, script, "--count", str(count), "--seed", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert {name: told[name] for name in SHARES} == {
        name: round(count * share) for name, share in SHARES.items()
    }
