"""The metadata service that clients name as http://host:port/metadata; `python -m mooncake.http_metadata_server [--host H] [--port P]`."""

import logging
import threading
from concurrent.futures import Future
from enum import Enum
from typing import Optional

from mooncake import _programs
from mooncake.errors import Error

__all__ = ["KVBootstrapServer", "KVPoll"]


class KVPoll(Enum):
    """What KVBootstrapServer.poll() answers: Failed, or Success while the service runs."""

    Failed = 0
    Bootstrapping = 1
    WaitingForInput = 2
    Transferring = 3
    Success = 4


class KVBootstrapServer:
    """The service in this process. `host` is an address of this host; 0.0.0.0 is all of them; `port` 0 any free one.

    `thread` lives as long as the service. Calls may come from any thread; run() and close() one at a time.
    """

    def __init__(self, port: int, host: str = "0.0.0.0"):
        self.port, self.host = port, host
        self.thread: Optional[threading.Thread] = None
        self._stop = threading.Event()

    def run(self) -> threading.Thread:
        """Returns when it serves; `port` is then the real one. Raises OSError: the port is taken, the address is not one of this host."""
        if self.thread is None or not self.thread.is_alive():
            started: "Future[int]" = Future()
            self._stop.clear()
            self.thread = threading.Thread(target=self._serve, args=(started,), name="metadata service", daemon=True)
            self.thread.start()
            self.port = started.result()
            logging.info("HTTP Metadata Server started on %s:%d", self.host, self.port)
        return self.thread

    def close(self) -> None:
        """Frees the port. Idempotent; run() starts it again, empty."""
        self._stop.set()
        if self.thread is not None:
            self.thread.join()

    def poll(self) -> KVPoll:
        return KVPoll.Success if self.thread is not None and self.thread.is_alive() else KVPoll.Failed

    def _serve(self, started: "Future[int]") -> None:
        from mooncake.engine import _MetadataServer

        try:
            server = _MetadataServer(self.host, self.port)
        except Error as error:
            started.set_exception(OSError(str(error)))
            return
        started.set_result(server.port)
        self._stop.wait()


if __name__ == "__main__":
    _programs.mooncake_http_metadata_server()
