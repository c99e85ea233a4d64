"""The application of the chaos run: a web process, job workers, a singleton and a service, in one file.

    app.py web PORT HOST | jobs | cron | broker PORT

It keeps a record of itself that no kill -9 can falsify, in the directory that ``CHAOS_DIR`` names; each line is one
write with ``O_APPEND``, ``at`` is the monotonic clock that all processes of a machine share:

    life                 start, listen, term, end, and ``double`` when a second one of a single kind runs
    requests/<who>       ``b <id>`` when a request's head is read, ``e <id>`` when the last byte of the answer is sent
    jobs/...             see ``jobs.py``

``who`` is a process's pid and start time, as a pid alone may come again within a long run.
"""

# Started hundreds of times in a run: pathlib would cost more than all else it imports.
# ruff: noqa: PTH118

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import threading
import time

DIRECTORY = os.environ["CHAOS_DIR"]
RELEASE = os.environ.get("ROLLBRIDGE_RELEASE_ID", "")
WEBSOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
IDLE_SECONDS = 0.03
TICK_SECONDS = 0.05
LINGER_SECONDS = 0.15  # a singleton takes its time to end: a successor that does not wait for it is caught
CLOSE_SECONDS = 20.0  # below the configured time to stop


def identity() -> str:
    """``<pid>-<start time in clock ticks since boot>``: one process of this boot."""
    with open("/proc/self/stat") as file:
        return f"{os.getpid()}-{file.read().rpartition(')')[2].split()[19]}"


WHO = identity()
STOP_SIGNALS = {signal.SIGTERM, signal.SIGINT}


def append(path: str, line: str) -> None:
    descriptor = os.open(os.path.join(DIRECTORY, path), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, line.encode() + b"\n")
    os.close(descriptor)


def note(event: str, **data: object) -> None:
    entry = {
        "event": event,
        "role": sys.argv[1],
        "who": WHO,
        "release": RELEASE,
        "at": time.monotonic(),
        **data,
    }
    append("life", json.dumps(entry))


# --- web


class Web:
    """Threads with blocking sockets. On SIGTERM: listen no more, finish what there is, close WebSockets with 1001."""

    def __init__(self) -> None:
        self.is_stopping = False
        self.lock = threading.Lock()
        self.busy: set[Client] = set()
        self.clients: set[Client] = set()
        self.requests = os.open(os.path.join(DIRECTORY, "requests", WHO), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def record(self, letter: str, request_id: str) -> None:
        if request_id:
            os.write(self.requests, f"{letter} {request_id}\n".encode())

    def serve(self, port: int, host: str) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            note("end", reason=f"cannot bind {port}: {error}")
            raise SystemExit(98) from None
        listener.listen(1024)
        note("listen", port=port)
        print(f"{RELEASE} listens on {port}", flush=True)
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()
        signal.sigwait(STOP_SIGNALS)
        note("term")
        self.stop()
        note("end", reason="stopped")

    def accept(self, listener: socket.socket) -> None:
        while True:
            connection, _ = listener.accept()
            client = Client(self, connection)
            with self.lock:
                self.clients.add(client)
            threading.Thread(target=client.run, daemon=True).start()

    def stop(self) -> None:
        # Nothing new comes by now; what does is still answered, as long as there is something to wait for.
        self.is_stopping = True
        deadline = time.monotonic() + CLOSE_SECONDS
        while time.monotonic() < deadline:
            with self.lock:
                clients, busy = set(self.clients), set(self.busy)
            for client in clients:
                client.say_going_away()
            if not busy and not any(client.websocket for client in clients):
                break
            time.sleep(0.01)


class Client:
    """One connection: reads requests, answers them."""

    def __init__(self, web: Web, connection: socket.socket) -> None:
        self.web, self.connection = web, connection
        self.buffer = b""
        self.websocket = False
        self.has_said_going_away = False
        self.write_lock = threading.Lock()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def receive(self) -> None:
        data = self.connection.recv(262144)
        if not data:
            raise ConnectionResetError("client left")
        self.buffer += data

    def read_until(self, end: bytes) -> bytes:
        while end not in self.buffer:
            self.receive()
        data, _, self.buffer = self.buffer.partition(end)
        return data

    def read_exactly(self, count: int) -> bytes:
        while len(self.buffer) < count:
            self.receive()
        data, self.buffer = self.buffer[:count], self.buffer[count:]
        return data

    def run(self) -> None:
        try:
            while self.exchange():
                pass
        except OSError:
            pass  # the client left: that is its right
        finally:
            with self.web.lock:
                self.web.busy.discard(self)
                self.web.clients.discard(self)
            self.connection.close()

    def exchange(self) -> bool:
        head = self.read_until(b"\r\n\r\n").decode("latin-1")
        with self.web.lock:
            self.web.busy.add(self)
        request_line, *lines = head.split("\r\n")
        method, target, _version = request_line.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        request_id = headers.get("x-chaos-id", "")
        self.web.record("b", request_id)
        body = self.read_body(headers)
        path, _, query = target.partition("?")
        if path == "/ws":
            self.serve_websocket(headers)
            return False
        if path == "/ping":
            self.reply(b"pong", behaviour().get("ping_status", 200))
        elif method == "POST":
            self.reply(body)
        else:
            size, _, milliseconds = query.partition("&")
            time.sleep(int(milliseconds or "0") / 1000)
            self.reply(b"x" * int(size or "0"))
        self.web.record("e", request_id)
        with self.web.lock:
            self.web.busy.discard(self)
        return not self.web.is_stopping

    def read_body(self, headers: dict[str, str]) -> bytes:
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body = b""
            while size := int(self.read_until(b"\r\n"), 16):
                body += self.read_exactly(size)
                self.read_until(b"\r\n")
            self.read_until(b"\r\n")
            return body
        return self.read_exactly(int(headers.get("content-length", "0")))

    def reply(self, body: bytes, status: int = 200) -> None:
        connection = "close" if self.web.is_stopping else "keep-alive"
        head = f"HTTP/1.1 {status} Status\r\nContent-Length: {len(body)}\r\nConnection: {connection}\r\n"
        self.connection.sendall(f"{head}X-Release: {RELEASE}\r\nX-Who: {WHO}\r\n\r\n".encode() + body)

    def serve_websocket(self, headers: dict[str, str]) -> None:
        import base64
        import hashlib

        accept = base64.b64encode(hashlib.sha1(headers["sec-websocket-key"].encode() + WEBSOCKET_GUID).digest())
        head = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        head += f"Sec-WebSocket-Accept: {accept.decode()}\r\nX-Release: {RELEASE}\r\nX-Who: {WHO}\r\n\r\n"
        with self.write_lock:
            self.connection.sendall(head.encode())
            self.websocket = True
        with self.web.lock:
            self.web.busy.discard(self)
        while True:
            first, second = self.read_exactly(2)
            size = second & 0x7F
            if size == 126:
                size = int.from_bytes(self.read_exactly(2), "big")
            mask = self.read_exactly(4)
            payload = bytes(byte ^ mask[at % 4] for at, byte in enumerate(self.read_exactly(size)))
            if first & 0x0F == 8:
                if not self.has_said_going_away:
                    self.send_frame(0x88, payload)
                return
            self.send_frame(0x81, payload)

    def send_frame(self, first: int, payload: bytes) -> None:
        length = bytes([len(payload)]) if len(payload) < 126 else b"\x7e" + len(payload).to_bytes(2, "big")
        with self.write_lock:
            self.connection.sendall(bytes([first]) + length + payload)

    def say_going_away(self) -> None:
        if self.websocket and not self.has_said_going_away:
            self.has_said_going_away = True
            try:
                self.send_frame(0x88, (1001).to_bytes(2, "big") + b"stopping")
            except OSError:
                return  # it has gone


def behaviour() -> dict[str, int]:
    """What the release's directory says: ``ping_status``, ``exit_code`` (ends before it listens)."""
    try:
        with open("behaviour.json") as file:
            found: dict[str, int] = json.load(file)
    except OSError:
        return {}
    return found


# --- the others


def stop_politely() -> list[int]:
    """Install handlers that only take note of SIGTERM; the list is empty until it comes."""
    told: list[int] = []

    def on_term(signum: int, _frame: object) -> None:
        told.append(signum)
        note("term")

    signal.signal(signal.SIGTERM, on_term)
    signal.signal(signal.SIGINT, on_term)
    return told


def alone(name: str) -> int:
    """Prove that we are the only one: an exclusive lock that dies with its holder, and is never waited for."""
    descriptor = os.open(os.path.join(DIRECTORY, f"{name}.lock"), os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        note("double", holder=os.pread(descriptor, 40, 0).decode().strip())
    else:
        os.pwrite(descriptor, WHO.ljust(40).encode(), 0)
    return descriptor


def tick(told: list[int]) -> None:
    """Print a number, line after line, until told to stop: what of them is kept shows whether output was lost."""
    number = 0
    while not told:
        os.write(1, f"tick {WHO} {number}\n".encode())
        number += 1
        time.sleep(TICK_SECONDS)


def run_cron(told: list[int]) -> None:
    alone("cron")
    note("start")
    tick(told)
    time.sleep(LINGER_SECONDS)


def run_broker(told: list[int]) -> None:
    alone("broker")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(sys.argv[2])))
    listener.listen(16)
    note("start")
    tick(told)


def run_jobs(told: list[int]) -> None:
    from jobs import JobQueue  # type: ignore[import-not-found]  # beside this file, which runs as a script

    queue = JobQueue(os.path.join(DIRECTORY, "jobs"), WHO)
    note("start")
    while not told:
        if not queue.work():
            time.sleep(IDLE_SECONDS)


def run_web() -> None:
    # Blocked in every thread and waited for in this one: it cannot come too early.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    note("start")
    code = behaviour().get("exit_code")
    if code is not None:
        note("end", reason=f"exits with {code}, as its release says")
        raise SystemExit(code)
    Web().serve(int(sys.argv[2]), sys.argv[3])


def main() -> None:
    if sys.argv[1] == "web":
        run_web()
    else:
        told = stop_politely()
        {"cron": run_cron, "broker": run_broker, "jobs": run_jobs}[sys.argv[1]](told)
        note("end", reason="stopped")
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
