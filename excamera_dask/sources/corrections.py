"""A source as the user says that it is, where the file says otherwise or nothing."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np

from excamera_dask.overrides import MATRICES, PRIMARIES, TRANSFERS, Reading
from excamera_dask.sources.description import Colour, SourceInfo


def corrected(source: SourceInfo) -> SourceInfo:
    """The whole source with the colour, aspect and times that its reading asks for."""
    reading = source.reading
    source = dataclasses.replace(
        source,
        colour=_colour(source.colour, reading),
        sample_aspect=_sample_aspect(source, reading),
    )
    if reading.frame_rate is None:
        return source
    return dataclasses.replace(
        source,
        all_times=np.arange(len(source.all_times), dtype=np.int64),
        end=len(source.all_times),
        start=Fraction(0),
        time_base=1 / reading.frame_rate,
        average_rate=reading.frame_rate,
    )


def _colour(colour: Colour, reading: Reading) -> Colour:
    return Colour(
        colour.range,
        PRIMARIES.get(reading.color_primaries or "", colour.primaries),
        TRANSFERS.get(reading.color_trc or "", colour.transfer),
        MATRICES.get(reading.colorspace or "", colour.matrix),
    )


def _sample_aspect(source: SourceInfo, reading: Reading) -> Fraction:
    if reading.aspect is not None:
        return reading.aspect * Fraction(source.height, source.width)
    return reading.sample_aspect or source.sample_aspect
