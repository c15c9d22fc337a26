"""The configuration of a store's client, from a JSON file or from the environment."""

import json
import os
from dataclasses import dataclass
from typing import Any

DEFAULT_GLOBAL_SEGMENT_SIZE = 3355443200
DEFAULT_LOCAL_BUFFER_SIZE = 1073741824
DEFAULT_TENANT_ID = "default"

_UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off", "")
_REQUIRED = ("local_hostname", "metadata_server", "master_server_address")


def _parse_segment_size(value: Any) -> int:
    """Bytes: 4294967296, "4gb", "512 M", "1.5GB". ValueError otherwise."""
    if isinstance(value, (int, float)):
        return int(value)
    text = str(value).strip().lower()
    number = text[:-1] if text.endswith("b") else text
    factor = _UNITS.get(number[-1:], 1)
    if factor != 1:
        number = number[:-1]
    try:
        return int(number) * factor if number.strip().isdigit() else int(float(number) * factor)
    except (ValueError, OverflowError):
        raise ValueError(f'"{value}" is no size: write bytes, or a number with KB, MB, GB or TB') from None


def _parse_bool(value: Any) -> bool:
    text = str(value).strip().lower()
    if text not in _TRUE + _FALSE:
        raise ValueError(f'"{value}" is neither true nor false')
    return text in _TRUE


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
    enable_ssd_offload: bool = False
    ssd_offload_path: str = ""
    tenant_id: str = DEFAULT_TENANT_ID

    @staticmethod
    def from_file(file_path: str) -> "MooncakeConfig":
        """Reads a JSON object. ValueError names a field that is missing or unusable."""
        with open(file_path, encoding="utf-8") as file:
            config = json.load(file)
        for field in _REQUIRED:
            if field not in config:
                raise ValueError(f"Missing required config field: {field} (in {file_path})")
        return MooncakeConfig(
            local_hostname=config["local_hostname"],
            metadata_server=config["metadata_server"],
            global_segment_size=_parse_segment_size(config.get("global_segment_size", DEFAULT_GLOBAL_SEGMENT_SIZE)),
            local_buffer_size=_parse_segment_size(config.get("local_buffer_size", DEFAULT_LOCAL_BUFFER_SIZE)),
            protocol=config.get("protocol", "tcp"),
            device_name=config.get("device_name", ""),
            master_server_address=config["master_server_address"],
            enable_ssd_offload=_parse_bool(config.get("enable_ssd_offload", False)),
            ssd_offload_path=config.get("ssd_offload_path") or "",
            tenant_id=config.get("tenant_id") or DEFAULT_TENANT_ID,
        )

    @staticmethod
    def load_from_env() -> "MooncakeConfig":
        """The file that MOONCAKE_CONFIG_PATH names, or, without it, MOONCAKE_MASTER and its companions. ValueError if neither is set."""
        path = os.getenv("MOONCAKE_CONFIG_PATH")
        if path:
            return MooncakeConfig.from_file(path)
        master = os.getenv("MOONCAKE_MASTER")
        if not master:
            raise ValueError("Neither the environment variable 'MOONCAKE_CONFIG_PATH' nor 'MOONCAKE_MASTER' is set.")
        return MooncakeConfig(
            local_hostname=os.getenv("MOONCAKE_LOCAL_HOSTNAME") or os.getenv("LOCAL_HOSTNAME") or "localhost",
            metadata_server=os.getenv("MOONCAKE_TE_META_DATA_SERVER", "P2PHANDSHAKE"),
            global_segment_size=_parse_segment_size(os.getenv("MOONCAKE_GLOBAL_SEGMENT_SIZE", str(DEFAULT_GLOBAL_SEGMENT_SIZE))),
            local_buffer_size=_parse_segment_size(os.getenv("MOONCAKE_LOCAL_BUFFER_SIZE", str(DEFAULT_LOCAL_BUFFER_SIZE))),
            protocol=os.getenv("MOONCAKE_PROTOCOL", "tcp"),
            device_name=os.getenv("MOONCAKE_DEVICE", ""),
            master_server_address=master,
            enable_ssd_offload=_parse_bool(os.getenv("MOONCAKE_OFFLOAD_ENABLED", os.getenv("MOONCAKE_ENABLE_SSD_OFFLOAD", "false"))),
            ssd_offload_path=os.getenv("MOONCAKE_OFFLOAD_FILE_STORAGE_PATH", ""),
            tenant_id=os.getenv("MOONCAKE_TENANT_ID") or DEFAULT_TENANT_ID,
        )
