"""All options of an encode in one immutable value, checked when it is made."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from excamera_dask.errors import InvalidSetting
from excamera_dask.first_pass import FirstPassSettings
from excamera_dask.mechanisms import ALL_ON, Mechanisms
from excamera_dask.overrides import FIELDS, Reading
from excamera_dask.presets import DEFAULT, KEY_DISTANCE, LONGEST_CHUNK, PAPER, PRESETS, Preset
from excamera_dask.stages import KEY_FRAME_Q_WEIGHT

CHUNK_FRAMES = 6
"""The paper's N."""
_FIRST_PASS = {field.name for field in dataclasses.fields(FirstPassSettings)} - {"encoder"}
_USUAL_PASS = FirstPassSettings()
_PAPERS = {"batch_chunks", "kf_q_weight", "encoder"} | (_FIRST_PASS - {"cq_level"})
"""What only the paper's method looks at."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to encode, and how; the same settings and input give the same bytes on every executor.

    preset: "paper" is the paper's method, the others have hidden frames (`presets`). chunk_frames, batch_chunks: the paper's
    [N, x], batch_chunks None for one batch as long as the film; with hidden frames, chunk_frames are those of a chunk,
    about, and key_distance those from one key frame to the next; chunk_frames None is the preset's choice. skip, limit:
    frames of the source to leave out at the start, and to encode at most; key_frame_times: seconds from the first encoded
    frame at which a key frame is forced; scene_cuts: start a new batch at scene cuts, unless each chunk is one;
    kf_q_weight: weight 0 .. 1 of the key frame's quantizer in the frame that replaces it; encoder: "vpxenc", "libvpx" or
    None for the better one that is here; first_pass: everything else about the first pass; reading: which stream of the
    source is meant, and what is true where the file says otherwise or nothing; mechanisms: which of those behind hidden
    frames are on, for whoever measures them.

    Raises: InvalidSetting.
    """

    preset: str = DEFAULT
    chunk_frames: int | None = None
    batch_chunks: int | None = 16
    key_distance: int = KEY_DISTANCE
    skip: int = 0
    limit: int | None = None
    key_frame_times: tuple[float, ...] = ()
    scene_cuts: bool = True
    kf_q_weight: float = KEY_FRAME_Q_WEIGHT
    encoder: str | None = None
    first_pass: FirstPassSettings = dataclasses.field(default_factory=FirstPassSettings)
    reading: Reading = dataclasses.field(default_factory=Reading)
    mechanisms: Mechanisms = ALL_ON

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise InvalidSetting(f"preset {self.preset!r}; it must be {', '.join(PRESETS)}")
        _at_least(
            1,
            chunk_frames=self.chunk_frames,
            batch_chunks=self.batch_chunks,
            key_distance=self.key_distance,
            limit=self.limit,
        )
        if self.structure is not None and (self.chunk_frames or 0) > LONGEST_CHUNK:
            raise InvalidSetting(
                f"chunk_frames is {self.chunk_frames}; with preset {self.preset!r} it must be at most {LONGEST_CHUNK}: "
                f"preset {PAPER!r} takes any"
            )
        if self.structure is not None and self.first_pass.cq_index is None:
            raise InvalidSetting(
                f"preset {self.preset!r} encodes at a cq_level; end_usage "
                f"{self.first_pass.end_usage!r} is for preset {PAPER!r}"
            )
        _at_least(0, skip=self.skip)
        if not 0 <= self.kf_q_weight <= 1:
            raise InvalidSetting(f"kf_q_weight is {self.kf_q_weight}; it must lie in 0 .. 1")
        for time in _times(self.key_frame_times):
            if not 0 <= time < float("inf"):
                raise InvalidSetting(f"key frame at {time} s; times count from 0")
        if self.encoder not in (None, "vpxenc", "libvpx"):
            raise InvalidSetting(f"encoder {self.encoder!r}; it must be vpxenc or libvpx")

    @classmethod
    def of(cls, **options: Any) -> Settings:
        """Settings from options by name: this class's, and those of FirstPassSettings and Reading beside them
        (`cq_level=20, stream=1`). Without a preset, one of those that only the paper's method looks at chooses that.
        """
        own = {field.name for field in dataclasses.fields(cls)}
        unknown = set(options) - own - _FIRST_PASS - set(FIELDS)
        if unknown:
            raise InvalidSetting(f"no such setting: {', '.join(sorted(unknown))}")
        if options.get("preset") is None:
            options["preset"] = PAPER if _mean_papers(options) else DEFAULT
        first_pass = options.pop("first_pass", None) or FirstPassSettings()
        changes = {name: options.pop(name) for name in list(options) if name in _FIRST_PASS}
        try:
            first_pass = dataclasses.replace(first_pass, **changes)
        except ValueError as error:
            raise InvalidSetting(str(error)) from None
        said = {name: options.pop(name) for name in FIELDS if name in options}
        options["reading"] = dataclasses.replace(options.get("reading", Reading()), **said)
        options["key_frame_times"] = tuple(_times(options.get("key_frame_times", ())))
        return cls(**options, first_pass=first_pass)

    @property
    def structure(self) -> Preset | None:
        """How batches with hidden frames are built; None for the paper's."""
        return PRESETS[self.preset]

    @property
    def frames_a_chunk(self) -> int:
        """As chosen, or as the preset has it."""
        if self.chunk_frames is not None:
            return self.chunk_frames
        return CHUNK_FRAMES if self.structure is None else self.structure.chunk_frames

    @property
    def unused(self) -> tuple[str, ...]:
        """Names of settings that were chosen and that the preset does not look at."""
        usual = Settings()
        if self.structure is None:
            ours = ("key_distance", "mechanisms")
            return tuple(name for name in ours if getattr(self, name) != getattr(usual, name))
        own = [
            name
            for name in ("batch_chunks", "kf_q_weight", "encoder")
            if getattr(self, name) != getattr(usual, name)
        ]
        first_pass = [
            name
            for name in sorted(_FIRST_PASS - {"cq_level"})
            if getattr(self.first_pass, name) != getattr(usual.first_pass, name)
        ]
        return (*own, *first_pass)

    @property
    def has_kernels(self) -> bool:
        """Whether our own codec does any of the work."""
        return self.structure is not None or self.batch_chunks != 1

    def chosen(self) -> Settings:
        """These settings with the encoder and the pace that the whole job will use; raises FirstPassUnavailable."""
        if self.structure is not None:
            return self
        first_pass = self.first_pass.choose(self.encoder).paced(chained=self.batch_chunks != 1)
        return dataclasses.replace(self, encoder=first_pass.encoder, first_pass=first_pass)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**dataclasses.asdict(self), "reading": self.reading.as_dict()}


def _mean_papers(options: Mapping[str, Any]) -> bool:
    """Whether options by name have one that is of no use to other methods; of these, None is no choice but for x."""
    named = {name for name, value in options.items() if value is not None or name == "batch_chunks"}
    whole = options.get("first_pass") or _USUAL_PASS
    alike = {name: getattr(_USUAL_PASS, name) for name in ("cq_level", "encoder")}
    return dataclasses.replace(whole, **alike) != _USUAL_PASS or bool(named & _PAPERS)


def _at_least(least: int, **values: int | None) -> None:
    for name, value in values.items():
        if value is not None and (not isinstance(value, int) or value < least):
            raise InvalidSetting(f"{name} is {value!r}; it must be a whole number, {least} or more")


def _times(times: Any) -> Iterable[float]:
    try:
        if isinstance(times, str):  # its characters would be numbers
            raise TypeError
        return [float(time) for time in times]
    except (TypeError, ValueError, OverflowError):
        raise InvalidSetting(f"key_frame_times {times!r}; give seconds") from None
