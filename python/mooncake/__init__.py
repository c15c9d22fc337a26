"""Mooncake: moves, keeps and places the KV cache of large language models.

Importing this package loads nothing; `mooncake.engine` is the transfer engine.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
