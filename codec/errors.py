"""The codec's own errors: bad data, what VP8 cannot say, and nothing else."""


class CodecError(Exception):
    """Base of the errors that the codec raises on purpose."""


class InvalidBitstream(CodecError):
    """The data is not a VP8 frame that libvpx would decode; the message says what and where."""


class UnsupportedFeature(CodecError):
    """The data is well formed but asks for something that VP8 decoders do not offer."""


class InvalidState(CodecError):
    """Serialized state bytes are of another version, truncated, altered, or need another base."""
