"""A short part of the fuzz run of relay and control frames; EXCAMERA_FUZZ=1000000 is the whole."""

from __future__ import annotations

import logging
import os

from fuzz_frames import SHARES, fuzz


def test_mutated_frames_cause_typed_errors_alone() -> None:
    count = int(os.environ.get("EXCAMERA_FUZZ", "6000"))
    logging.disable(logging.CRITICAL)
    try:
        done = fuzz(count, seed=count)
    finally:
        logging.disable(logging.NOTSET)
    assert {name: done[name] for name in SHARES} == {
        name: round(count * share) for name, share in SHARES.items()
    }
