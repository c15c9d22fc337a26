"""The configuration of a store's client, from a JSON file or from the environment."""

import json
import os
from dataclasses import dataclass

DEFAULT_GLOBAL_SEGMENT_SIZE = 3355443200
DEFAULT_LOCAL_BUFFER_SIZE = 1073741824

_UNITS = {"": 1, "b": 1, "kb": 1 << 10, "mb": 1 << 20, "gb": 1 << 30, "tb": 1 << 40}
_REQUIRED = ("local_hostname", "metadata_server", "master_server_address")


def _parse_size(value) -> int:
    """Bytes: 4294967296, "4gb", "512 MB", "1.5GB". ValueError otherwise."""
    if isinstance(value, int):
        return value
    text = str(value).strip().lower()
    number = text.rstrip("kmgtb ")
    unit = text[len(number):].strip()
    try:
        return int(float(number) * _UNITS[unit]) if "." in number else int(number) * _UNITS[unit]
    except (KeyError, ValueError):
        raise ValueError(f'"{value}" is no size: write bytes, or a number with KB, MB, GB or TB') from None


@dataclass
class MooncakeConfig:
    """Sizes in bytes; `protocol` "tcp" or "rdma"; `device_name` a list with commas, empty: all."""

    local_hostname: str
    metadata_server: str
    global_segment_size: int
    local_buffer_size: int
    protocol: str
    device_name: str
    master_server_address: str

    @staticmethod
    def from_file(file_path: str) -> "MooncakeConfig":
        """Reads a JSON object. ValueError names a field that is missing or unusable."""
        with open(file_path, encoding="utf-8") as file:
            config = json.load(file)
        for field in _REQUIRED:
            if field not in config:
                raise ValueError(f"{file_path} has no field {field}")
        return MooncakeConfig(
            local_hostname=config["local_hostname"],
            metadata_server=config["metadata_server"],
            global_segment_size=_parse_size(config.get("global_segment_size", DEFAULT_GLOBAL_SEGMENT_SIZE)),
            local_buffer_size=_parse_size(config.get("local_buffer_size", DEFAULT_LOCAL_BUFFER_SIZE)),
            protocol=config.get("protocol", "tcp"),
            device_name=config.get("device_name", ""),
            master_server_address=config["master_server_address"],
        )

    @staticmethod
    def load_from_env() -> "MooncakeConfig":
        """The file that MOONCAKE_CONFIG_PATH names, or, without it, MOONCAKE_MASTER and its companions. ValueError if neither is set."""
        path = os.getenv("MOONCAKE_CONFIG_PATH")
        if path:
            return MooncakeConfig.from_file(path)
        master = os.getenv("MOONCAKE_MASTER")
        if not master:
            raise ValueError("neither MOONCAKE_CONFIG_PATH nor MOONCAKE_MASTER is set")
        return MooncakeConfig(
            local_hostname=os.getenv("MOONCAKE_LOCAL_HOSTNAME") or os.getenv("LOCAL_HOSTNAME") or "localhost",
            metadata_server=os.getenv("MOONCAKE_TE_META_DATA_SERVER", "P2PHANDSHAKE"),
            global_segment_size=_parse_size(os.getenv("MOONCAKE_GLOBAL_SEGMENT_SIZE", str(DEFAULT_GLOBAL_SEGMENT_SIZE))),
            local_buffer_size=_parse_size(os.getenv("MOONCAKE_LOCAL_BUFFER_SIZE", str(DEFAULT_LOCAL_BUFFER_SIZE))),
            protocol=os.getenv("MOONCAKE_PROTOCOL", "tcp"),
            device_name=os.getenv("MOONCAKE_DEVICE", ""),
            master_server_address=master,
        )
