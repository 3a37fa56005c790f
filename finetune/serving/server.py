"""The server's life: a port, a thread that serves, and an orderly end."""

import errno
import logging
import os
import socket
import threading
import time

import uvicorn

from finetune.errors import BusyError, FinetuneError, UsageError
from finetune.serving.app import Service, make_app

_CONNECTIONS = 1024
_END_SECONDS = 10  # for requests that are being answered when the server ends


def bind(host: str, port: int) -> socket.socket:
    """Take a port; 0 is any free one.

    Raises:
        BusyError: another process has it. UsageError: it cannot be had on this machine.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        taken = socket.socket(family, socket.SOCK_STREAM)
        if os.name == "posix":  # elsewhere it lets two processes have one port
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(address)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise BusyError(
                f"Port {port} of {host} is in use by another process. Choose another --port, or 0 "
                "for any that is free."
            ) from error
        raise UsageError(
            f"{host} port {port} cannot be served: {error.strerror or error}. Give an address of "
            "this machine as --host, and a --port from 1024 to 65535."
        ) from error
    return taken


class Server:
    """A service on a socket, in a thread: the main thread keeps the signals."""

    def __init__(self, service: Service, taken: socket.socket):
        """Begin to serve; returns when the server answers."""
        # Each broken form would be a line on stderr; the client is told.
        logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
        config = uvicorn.Config(
            make_app(service),
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_END_SECONDS,
        )
        self._service = service
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [taken]})
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise FinetuneError("The server could not be started; see above.")
            time.sleep(0.01)

    def wait(self) -> None:
        """Until the server ends, which it does not by itself; signals are raised here."""
        while self._thread.is_alive():
            self._thread.join(0.5)  # without a limit Windows would not see Ctrl-C

    def close(self) -> None:
        """Take no more requests, answer those that are there, and end."""
        self._server.should_exit = True
        self._thread.join()
        self._service.close()
