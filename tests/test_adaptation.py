"""Probabilities fitted to counts, against what their definitions say."""

from __future__ import annotations

import numpy as np

from codec import tables
from codec.encoding import adaptation


def test_fitted_probabilities_are_the_nearest_shares() -> None:
    counts = np.array([[0, 0], [0, 5], [5, 0], [1, 1], [1, 2], [1000, 3]])
    assert adaptation.fit(counts).tolist() == [255, 1, 255, 128, 85, 255]


def test_coefficients_are_updated_where_that_saves_bits() -> None:
    rng = np.random.default_rng(1)
    before = rng.integers(1, 256, (4, 8, 3, 11), dtype=np.uint8)
    counts = rng.integers(0, 60, (1056, 2)) * rng.integers(0, 2, (1056, 1))
    fitted = adaptation.fit(counts).reshape(before.shape)
    updated = adaptation.fit_coefficients(before, counts)
    by_place = counts.reshape(*before.shape, 2)
    said = adaptation.rate_of_one(tables.COEFF_UPDATE_PROBS) + adaptation.BYTE_RATE
    unsaid = adaptation.rate_of_zero(tables.COEFF_UPDATE_PROBS)
    pays = adaptation.rate(by_place, before) + unsaid > adaptation.rate(by_place, fitted) + said
    assert pays.any() and not pays.all()
    assert np.array_equal(updated, np.where(pays, fitted, before))


def test_vectors_are_updated_to_what_can_be_said() -> None:
    before = tables.DEFAULT_MV_PROBS
    counts = np.tile([[500, 37]], (38, 1))
    updated = adaptation.fit_vectors(before, counts)
    assert np.all((updated == before) | (updated == adaptation.sayable(adaptation.fit(counts[:1]))))
    assert (updated != before).any()
