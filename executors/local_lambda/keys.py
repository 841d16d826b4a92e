"""The keys of a server: made at its start, known to whoever has started it, and what requests to it are signed with."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from botocore.auth import SigV4Auth

VARIABLE = "EXCAMERA_LOCAL_LAMBDA"
"""Brings settings and keys to the server: other users see a command's arguments, but not its environment."""


class Keys(NamedTuple):
    """An access key and its secret, as AWS has them."""

    access_key: str
    secret_key: str

    @classmethod
    def new(cls) -> Self:
        """Keys that nobody can guess."""
        return cls(f"LOCAL{secrets.token_hex(8).upper()}", secrets.token_hex(24))

    def variables(self) -> dict[str, str]:
        """For the environment of programs that use the server."""
        return {"AWS_ACCESS_KEY_ID": self.access_key, "AWS_SECRET_ACCESS_KEY": self.secret_key}

    def signer(self, service: str, region: str) -> SigV4Auth:
        """botocore's signer with these keys."""
        from botocore.auth import SigV4Auth
        from botocore.credentials import Credentials

        return SigV4Auth(Credentials(self.access_key, self.secret_key), service, region)
