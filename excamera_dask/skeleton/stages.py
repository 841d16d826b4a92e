"""The steps of a batch with hidden frames, as a graph has them: light to import, since a client only names them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import codec
from excamera_dask.groups import Group
from excamera_dask.planning import Chunk
from excamera_dask.skeleton.manner import Manner
from excamera_dask.sources import SourceInfo
from excamera_dask.stages import ChunkResult

if TYPE_CHECKING:
    from excamera_dask.skeleton.making import Skeleton
    from excamera_dask.skeleton.survey import Survey


def survey(source: SourceInfo, group: Group, manner: Manner) -> Survey:
    """How long the content of a group lives on and where it moves, from a few of its pictures."""
    codec.import_kernels()
    from excamera_dask.skeleton.survey import survey_group

    return survey_group(source, group.before, group.end, manner)


def begin(source: SourceInfo, start: int, surveys: Sequence[Survey], manner: Manner) -> Skeleton:
    """A batch's key frame, frame `start`, and how fine its hidden frames shall be; surveys are those of its groups."""
    codec.import_kernels()
    from excamera_dask.skeleton.making import begin

    return begin(source, start, surveys, manner)


def extend(
    source: SourceInfo,
    group: Group,
    place: int,
    begun: Skeleton,
    before: Skeleton,
    seen: Survey,
    manner: Manner,
) -> Skeleton:
    """The skeleton with one group more, the batch's `place`-th: its hidden frame, and the frame that shows it.

    begun: what `begin` gave, which knows how fine the frame shall be.
    """
    codec.import_kernels()
    from excamera_dask.skeleton.making import extend

    return extend(source, group, begun.quantizers[place], before, seen, manner)


def code(
    source: SourceInfo,
    chunk: Chunk,
    group: Group,
    skeleton: Skeleton,
    seen: Survey | None,
    manner: Manner,
) -> ChunkResult:
    """A chunk's final frames. skeleton: up to its group; seen: the group's survey, None without a hidden frame."""
    codec.import_kernels()
    from excamera_dask.skeleton.making import code

    return code(source, chunk, group, skeleton, seen, manner)
