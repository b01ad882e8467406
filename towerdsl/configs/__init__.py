"""Public configurations: what a `config.json` or a GGUF file says --> a spec of the library and its sizes, and back."""

from towerdsl.configs.find import NAME, configuration, fetched, found, public_file, sizes_for
from towerdsl.configs.rules import FAMILY, Config, Rules, check, origin

__all__ = [
    "FAMILY",
    "NAME",
    "Config",
    "Rules",
    "check",
    "configuration",
    "fetched",
    "found",
    "origin",
    "public_file",
    "sizes_for",
]
