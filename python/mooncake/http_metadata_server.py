"""The metadata service that clients name as http://host:port/metadata; `python -m mooncake.http_metadata_server [--host H] [--port P]`."""

from enum import Enum

from mooncake import _programs

__all__ = ["KVBootstrapServer", "KVPoll"]


class KVPoll(Enum):
    """What KVBootstrapServer.poll() answers: Failed, or Success while the service runs."""

    Failed = 0
    Bootstrapping = 1
    WaitingForInput = 2
    Transferring = 3
    Success = 4


class KVBootstrapServer:
    """The service in this process, in threads of its own. `host` is an address of this host; 0.0.0.0 is all of them; `port` 0 any free one.

    Calls may come from any thread; run() and close() one at a time.
    """

    def __init__(self, port: int, host: str = "0.0.0.0"):
        self.port, self.host = port, host
        self._server = None

    def run(self) -> None:
        """Returns when it serves; `port` is then the real one. Raises mooncake.Error (the port is taken, the address is not of this host)."""
        from mooncake.engine import _MetadataServer

        if self._server is None:
            self._server = _MetadataServer(self.host, self.port)
            self.port = self._server.port

    def close(self) -> None:
        """Frees the port. Idempotent; run() starts it again, empty."""
        self._server = None

    def poll(self) -> KVPoll:
        return KVPoll.Failed if self._server is None else KVPoll.Success


if __name__ == "__main__":
    _programs.mooncake_http_metadata_server()
