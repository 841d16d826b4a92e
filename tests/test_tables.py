"""The tables of RFC 6386 against their published checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from codec import tables


def test_tables_have_the_published_checksums(shared: Path) -> None:
    published = json.loads((shared / "vp8" / "tables.json").read_text())["tables"]
    assert sorted(published) == sorted(tables.TABLES)
    for name, entry in published.items():
        table = tables.TABLES[name]
        text = ",".join(map(str, table.values.ravel().tolist()))
        assert list(table.shape) == entry["shape"], name
        assert table.section == entry["section"], name
        assert hashlib.sha256(text.encode()).hexdigest()[:16] == entry["sha256"], name


def test_tables_cannot_be_written_to() -> None:
    with pytest.raises(ValueError, match="read-only"):
        tables.DC_QLOOKUP[0] = 1


def test_quantizer_steps_rise() -> None:
    assert np.all(np.diff(tables.DC_QLOOKUP) >= 0)
    assert np.all(np.diff(tables.AC_QLOOKUP) > 0)


def test_zigzag_is_a_permutation() -> None:
    assert sorted(tables.ZIGZAG) == list(range(16))
