"""The errors that a user of the library can meet, each with one clear line as its message."""


class ExcameraError(Exception):
    """Base of every error raised on purpose; the message says what, where and what to do."""


class InvalidSetting(ExcameraError):
    """An option has a value that it cannot have."""


class InstallationError(ExcameraError, ImportError):
    """The files of this installation are missing, or another package's files are found in their place."""


class SourceError(ExcameraError):
    """The input video cannot be read: missing, empty, not a video, or without a readable frame."""


class SourceChanged(SourceError):
    """The input file is not the one that was opened: what was read of it before and after is of two films."""


class ContainerError(ExcameraError):
    """A compressed VP8 file cannot be read or written."""


class FirstPassError(ExcameraError):
    """The first-pass encoder failed or gave something other than what was asked of it."""


class FirstPassUnavailable(FirstPassError):
    """The first-pass encoder chosen for the job is missing on the machine that must run it."""
