"""Prints which RDMA devices are near which memory of this host; `python -m mooncake.transfer_engine_topology_dump [--device-name LIST]`."""

from mooncake import _programs

main = _programs.transfer_engine_topology_dump

if __name__ == "__main__":
    main()
