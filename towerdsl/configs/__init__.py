"""Public configurations: the `config.json` beside a checkpoint --> a spec of the library and its sizes, and back."""

from towerdsl.configs.find import NAME, fetched, found, sizes_for, source_folder
from towerdsl.configs.rules import Config, Rules, check, origin

__all__ = ["NAME", "Config", "Rules", "check", "fetched", "found", "origin", "sizes_for", "source_folder"]
