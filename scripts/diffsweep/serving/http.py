"""uvicorn in a thread of its own, on loopback, with nothing that ticks."""

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Any

# Longer than any pause between a client's requests: uvicorn's own 5 s would close the connection to the server that
# waits while its partner is measured, and the next request would pay for a new one.
KEEP_ALIVE_S = 3600


def listen(port: int) -> socket.socket:
    """A bound loopback socket; port 0 lets the kernel choose. Raises OSError when the port is taken."""
    # With the protocol named, which asyncio asks for before it sets TCP_NODELAY: without it, every reply's body waits
    # 40 ms for the client's acknowledgement of its head.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


class HttpThread(threading.Thread):
    """Serves an app on a socket until the process ends.

    The app is made inside the thread, so that FastAPI is imported while the main thread loads the model.
    `on_exit` is called when it ends, which it should not.
    """

    def __init__(self, make_app: Callable[[], Any], listener: socket.socket, on_exit: Callable[[], None]):
        super().__init__(name="http", daemon=True)
        self._make_app, self._listener, self._on_exit = make_app, listener, on_exit
        self._accepting = threading.Event()
        self.failed = False

    def wait_until_accepting(self) -> None:
        self._accepting.wait()

    def run(self) -> None:
        try:
            self._serve()
        finally:
            self.failed = True
            self._accepting.set()
            self._on_exit()

    def _serve(self) -> None:
        import uvicorn

        accepting = self._accepting

        class QuietServer(uvicorn.Server):
            """uvicorn wakes ten times a second to renew the Date header and to look for signals; here it sleeps."""

            async def main_loop(self) -> None:
                accepting.set()
                await asyncio.Event().wait()

        config = uvicorn.Config(
            self._make_app(),
            loop="asyncio",
            http="h11",
            ws="none",
            lifespan="off",
            access_log=False,
            log_level="warning",
            date_header=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        QuietServer(config).run(sockets=[self._listener])
