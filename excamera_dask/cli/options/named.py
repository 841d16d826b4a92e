"""Options that somebody gave, apart from those that have their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from click.core import ParameterSource


def named(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the running command's options that were given: of the others the library knows what follows from these."""
    context = click.get_current_context()
    return {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) not in (ParameterSource.DEFAULT, None)
    }
