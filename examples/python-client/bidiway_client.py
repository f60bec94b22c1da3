"""A client of the Bidiway session protocol: many gRPC calls over one WebSocket.

Written from docs/protocol.md and proto/bidiway/v1/session.proto alone; "§" below are sections of that document.
Messages are bytes here: serialise and parse them with the classes of your own services.

    async with await Session.connect("ws://127.0.0.1:8080/bidiway/session") as session:
        call = session.open("/demo.v1.Chat/Talk", metadata=[("x-user", "ada")], timeout=60)
        await call.send(message.SerializeToString())
        async for reply in call:        # raises CallFailed when the call ends with another status than OK
            ...
"""

import asyncio
import math
from collections import deque
from dataclasses import dataclass

import websockets
from google.protobuf.message import DecodeError

from session_pb2 import Frame, Metadata, Packet

AGENT = "bidiway-python-example/1"
WINDOW = 65_536  # the credit of a stream until somebody says otherwise (§4, §8)
PIECE = 16_384  # the longest data frame (§7)
OVERHEAD = 32  # what a data frame costs beside its length (§8)
TRICKLE = 1_024  # shorter pieces of a longer message wait for credit (§8)
PACKET = 65_536  # a packet is closed by the frame that passes this (§2)
MAX_PACKET = 262_144
STREAMS_BEFORE_WELCOME = 256

OK, CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED = 0, 1, 2, 3, 4
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, INTERNAL, UNAVAILABLE = 8, 9, 13, 14

Entries = list[tuple[str, str | bytes]]


@dataclass(frozen=True)
class Status:
    """How a call ended: the gRPC status code, its text, a serialised google.rpc.Status, and trailing metadata."""

    code: int
    message: str = ""
    details: bytes = b""
    metadata: tuple[tuple[str, str | bytes], ...] = ()


class CallFailed(Exception):
    def __init__(self, status: Status):
        super().__init__(f"code {status.code}: {status.message}")
        self.status = status


class Violation(Exception):
    """The proxy broke the protocol so badly that the session has to be closed (§15)."""

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code = code


def read_packet(packet: bytes) -> list[Frame]:
    """The frames of a packet, each with a kind that this version knows (§3)."""
    try:
        frames = list(Packet.FromString(packet).frames)
    except DecodeError as error:
        raise Violation(INVALID_ARGUMENT, "not a packet") from error
    for frame in frames:
        kind = frame.WhichOneof("kind")
        if kind is None:
            raise Violation(INVALID_ARGUMENT, "a frame without a known kind")
        if kind != "data" and (frame.remaining or frame.last) or frame.remaining and frame.last:
            raise Violation(INVALID_ARGUMENT, "remaining or last where they do not fit")
    return frames


class _Signal:
    """Wakes everybody who waits for a change."""

    def __init__(self):
        self._event = asyncio.Event()

    def fire(self):
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self):
        await self._event.wait()


class Call:
    """One gRPC call. Made by Session.open()."""

    def __init__(self, session: "Session", stream: int, credit: int):
        self.stream = stream
        self._session = session
        self._loop = asyncio.get_running_loop()
        self._headers: asyncio.Future[Entries] = self._loop.create_future()
        self._status: asyncio.Future[Status] = self._loop.create_future()
        self._timer: asyncio.TimerHandle | None = None
        # Sending.
        self._credit = credit
        self._credit_came = _Signal()
        self._sending = asyncio.Lock()  # the pieces of two messages must not mix (§7)
        self._half_closed = False
        # Receiving. The queue is bounded by the credit that we give.
        self._pieces: asyncio.Queue[tuple[bytes, bool] | None] = asyncio.Queue()
        self._message: list[bytes] = []  # pieces that the application has taken
        self._remaining = 0  # of the message that is arriving
        self._window_left = session.stream_credit
        self._owed = 0  # consumed and not given back
        self._data_came = False

    @property
    def done(self) -> bool:
        return self._status.done()

    async def headers(self) -> Entries:
        """The initial metadata; empty when the call ended without any."""
        return await asyncio.shield(self._headers)

    async def status(self) -> Status:
        """How the call ended. Read the messages first: an unread stream may stand still and never end."""
        return await asyncio.shield(self._status)

    async def send(self, message: bytes, last: bool = False):
        """Sends a message, waiting while there is no credit. `last` half-closes with it."""
        async with self._sending:
            if self._half_closed:
                raise RuntimeError("the call is half-closed")
            sent, complete = 0, False
            try:
                while not complete:
                    left = len(message) - sent
                    while not self.done and self._credit < min(left, TRICKLE) + OVERHEAD:
                        await self._credit_came.wait()
                    if self.done:
                        raise CallFailed(self._status.result())
                    size = min(left, PIECE, self._credit - OVERHEAD)
                    complete = size == left
                    frame = Frame(stream=self.stream, data=message[sent : sent + size], remaining=left - size)
                    frame.last = last and complete
                    self._half_closed = frame.last
                    self._credit -= size + OVERHEAD
                    sent += size
                    self._session._put(frame)
                    # One piece of each stream in the queue at a time: so streams take turns (§9).
                    await self._session._written.wait()
            except asyncio.CancelledError:
                if 0 < sent and not complete:
                    self.cancel()  # half a message cannot be taken back
                raise

    async def half_close(self):
        """No more messages from here."""
        async with self._sending:
            if not self._half_closed and not self.done:
                self._half_closed = True
                frame = Frame(stream=self.stream)
                frame.half_close.SetInParent()
                self._session._put(frame)

    def cancel(self, code: int = CANCELLED, message: str = "cancelled by the client"):
        """Gives the call up, and what it has received and nobody has read."""
        if not self.done:
            frame = Frame(stream=self.stream)
            frame.cancel.SetInParent()
            self._session._put(frame)
            while not self._pieces.empty():
                self._pieces.get_nowait()
            self._end(Status(code, message))

    def __aiter__(self):
        return self

    async def __anext__(self) -> bytes:
        complete = False
        while not complete:
            piece = await self._pieces.get()
            if piece is None:
                self._pieces.put_nowait(None)  # for whoever asks again
                if self._status.result().code != OK:
                    raise CallFailed(self._status.result())
                raise StopAsyncIteration
            data, complete = piece
            self._message.append(data)
            self._consumed(len(data) + OVERHEAD)
        message, self._message = b"".join(self._message), []
        return message

    def _consumed(self, cost: int):
        self._owed += cost
        if self._owed * 2 >= self._session.stream_credit and not self.done:
            self._session._put(Frame(stream=self.stream, credit=self._owed))
            self._window_left += self._owed
            self._owed = 0

    def _handle_data(self, frame: Frame):
        size = len(frame.data)
        if size + OVERHEAD > self._window_left:
            raise Violation(RESOURCE_EXHAUSTED, f"data of {size} bytes on stream {self.stream} is beyond its credit")
        self._window_left -= size + OVERHEAD
        total = size + frame.remaining
        if self._remaining and total != self._remaining:
            self.cancel(INVALID_ARGUMENT, f"a piece with {total} bytes to its end, not {self._remaining}")
        elif frame.remaining and not size:
            self.cancel(INVALID_ARGUMENT, "a piece without bytes")
        elif frame.last:
            self.cancel(INTERNAL, "`last` from the proxy")
        elif total > self._session.max_message:
            self.cancel(RESOURCE_EXHAUSTED, f"a message of {total} bytes, the limit is {self._session.max_message}")
        else:
            self._remaining = frame.remaining
            self._pieces.put_nowait((frame.data, frame.remaining == 0))
            self._data_came = True


    def _handle_headers(self, frame: Frame):
        if self._headers.done() or self._data_came:
            self.cancel(INTERNAL, "Headers twice or after data")
        else:
            self._headers.set_result(_from_proto(frame.headers.metadata))

    def _handle_credit(self, frame: Frame):
        if frame.credit == 0 or self._credit + frame.credit > 2**31 - 1:
            self.cancel(INVALID_ARGUMENT, f"credit of {frame.credit} bytes")
        else:
            self._add_credit(frame.credit)

    def _add_credit(self, more: int):
        self._credit += more
        self._credit_came.fire()

    def _handle_trailers(self, frame: Frame):
        trailers = frame.trailers
        if trailers.code == OK and self._remaining:
            self.cancel(INTERNAL, "the call ended inside a message")
        else:
            metadata = tuple(_from_proto(trailers.metadata))
            self._end(Status(trailers.code, trailers.message, trailers.details, metadata))

    def _end(self, status: Status):
        self._status.set_result(status)
        if not self._headers.done():
            self._headers.set_result([])
        if self._timer:
            self._timer.cancel()
        self._pieces.put_nowait(None)
        self._credit_came.fire()
        self._session._calls.pop(self.stream, None)


class Session:
    """One WebSocket to Bidiway and the calls on it. Made by Session.connect()."""

    def __init__(self, ws, stream_credit: int, max_message: int):
        self.stream_credit = stream_credit or WINDOW  # of each stream, towards us
        self.max_message = max_message  # towards us
        self.welcome = None
        self.go_away = None
        self.closed: asyncio.Future[tuple[int, str]] = asyncio.get_running_loop().create_future()
        self._ws = ws
        self._calls: dict[int, Call] = {}
        self._next_stream = 1
        self._credit = WINDOW  # of each new stream, towards the proxy
        self._out: deque[Frame] = deque()
        self._put_something = asyncio.Event()
        self._written = _Signal()

    @classmethod
    async def connect(
        cls, url: str, metadata: Entries = (), stream_credit: int = 0, max_message: int = 4 << 20, **options
    ) -> "Session":
        """`metadata` goes with every call, `options` to websockets.connect()."""
        options = {"max_size": MAX_PACKET, "ping_interval": None, "compression": None} | options
        ws = await websockets.connect(url, subprotocols=["bidiway.v1"], **options)
        if ws.subprotocol != "bidiway.v1":
            await ws.close()
            raise ConnectionError(f"{url} does not speak bidiway.v1")
        session = cls(ws, stream_credit, max_message)
        hello = Frame()
        hello.hello.versions.append(1)
        hello.hello.stream_credit = stream_credit
        hello.hello.agent = AGENT
        hello.hello.metadata.extend(_to_proto(metadata))
        session._put(hello)
        session._tasks = [asyncio.create_task(session._read()), asyncio.create_task(session._write())]
        return session

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_):
        await self.close()

    def open(self, method: str, metadata: Entries = (), timeout: float | None = None) -> Call:
        """Begins a call of "/package.Service/Method"; `timeout` is in seconds. Nothing is waited for."""
        if self.closed.done() or self.go_away or self._next_stream >= 2**32:
            raise CallFailed(Status(UNAVAILABLE, "the session takes no new calls"))
        limit = self.welcome.limits.max_streams if self.welcome else STREAMS_BEFORE_WELCOME
        if len(self._calls) >= limit:
            raise CallFailed(Status(RESOURCE_EXHAUSTED, f"{limit} calls are open"))
        frame = Frame(stream=self._next_stream)
        frame.open.method = method
        frame.open.metadata.extend(_to_proto(metadata))
        if timeout is not None:
            frame.open.timeout_ms = max(1, math.ceil(timeout * 1000))  # 0 would be no deadline
        call = self._calls[frame.stream] = Call(self, frame.stream, self._credit)
        self._next_stream += 1
        self._put(frame)
        if timeout is not None:
            late = (DEADLINE_EXCEEDED, "the deadline has passed")
            call._timer = asyncio.get_running_loop().call_later(timeout, call.cancel, *late)
        return call

    async def unary(self, method: str, request: bytes, metadata: Entries = (), timeout: float | None = None) -> bytes:
        """One message there, one message back; raises CallFailed."""
        call = self.open(method, metadata, timeout)
        try:
            await call.send(request, last=True)
            replies = [reply async for reply in call]
        finally:
            call.cancel()  # does nothing when the call has ended
        if len(replies) != 1:
            raise CallFailed(Status(INTERNAL, f"{len(replies)} replies to a unary call"))
        return replies[0]

    def refresh(self, metadata: Entries):
        """Other default metadata for the calls that are opened from now on."""
        frame = Frame()
        frame.refresh.metadata.extend(_to_proto(metadata))
        frame.refresh.SetInParent()
        self._put(frame)

    async def close(self, code: int = 1000, reason: str = ""):
        """Closes the session. Calls that are still open end with UNAVAILABLE."""
        self._end(code, reason)
        self._tasks[0].cancel()
        await asyncio.wait([self._tasks[1]], timeout=1)  # lets the last frames leave
        self._tasks[1].cancel()
        await self._ws.close(code, reason.encode()[:123].decode(errors="ignore"))

    def _put(self, frame: Frame):
        self._out.append(frame)
        self._put_something.set()

    async def _write(self):
        """Sends whatever is ready as one packet, as long as the session lives."""
        try:
            while self._out or not self.closed.done():
                await self._put_something.wait()
                packet, size = Packet(), 0
                while self._out and size < PACKET:
                    frame = self._out.popleft()
                    size += frame.ByteSize()
                    packet.frames.append(frame)
                if not self._out and not self.closed.done():
                    self._put_something.clear()
                if packet.frames:
                    await self._ws.send(packet.SerializeToString())
                self._written.fire()
        except websockets.ConnectionClosed:
            pass  # the reader tells

    async def _read(self):
        try:
            while True:
                # The proxy pings, so silence means that the carrier is dead (§11).
                silence = self.welcome.ping_interval_ms * 2 / 1000 if self.welcome else 0
                async with asyncio.timeout(silence or None):
                    packet = await self._ws.recv()
                if isinstance(packet, str):
                    raise Violation(INVALID_ARGUMENT, "a text message")
                for frame in read_packet(packet):
                    self._handle(frame)
        except websockets.ConnectionClosed as closed:
            self._end(*((closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "the connection was lost")))
        except TimeoutError:
            await self._fail(UNAVAILABLE, "nothing came for two ping intervals")
        except Violation as violation:
            await self._fail(violation.code, str(violation))

    async def _fail(self, code: int, reason: str):
        self._end(4000 + code, reason)
        await self._ws.close(4000 + code, reason.encode()[:123].decode(errors="ignore"))

    def _end(self, code: int, reason: str):
        """Ends the session and every call that is open, with what the close code says (§14)."""
        if not self.closed.done():
            self.closed.set_result((code, reason))
        status = Status(UNAVAILABLE, reason or f"the session was closed with {code}")
        if 4000 <= code <= 4999:
            status = Status(code - 4000 if 4000 < code <= 4016 else UNKNOWN, reason)
        for call in list(self._calls.values()):
            call._end(status)
        self._put_something.set()
        self._written.fire()

    def _handle(self, frame: Frame):
        kind = frame.WhichOneof("kind")
        if (self.welcome is None) != (kind == "welcome"):
            raise Violation(INVALID_ARGUMENT, f"{kind} where Welcome has to be, or Welcome twice")
        of_stream = kind in ("data", "headers", "trailers", "credit")
        if of_stream != (frame.stream != 0):
            raise Violation(INVALID_ARGUMENT, f"{kind} on stream {frame.stream}")
        if of_stream:
            if frame.stream >= self._next_stream:
                raise Violation(INVALID_ARGUMENT, f"{kind} on stream {frame.stream}, which was never opened")
            if call := self._calls.get(frame.stream):  # a frame that comes late is nothing (§5)
                getattr(call, f"_handle_{kind}")(frame)
        elif kind == "welcome":
            self._handle_welcome(frame.welcome)
        elif kind == "ping":
            self._put(Frame(pong=frame.ping))
        elif kind == "go_away":
            self.go_away = frame.go_away
        elif kind not in ("pong", "ack"):
            raise Violation(INVALID_ARGUMENT, f"{kind} from the proxy")

    def _handle_welcome(self, welcome):
        if welcome.version != 1:
            raise Violation(FAILED_PRECONDITION, f"version {welcome.version} was not offered")
        if welcome.limits.stream_credit < WINDOW:
            raise Violation(INVALID_ARGUMENT, f"credit of {welcome.limits.stream_credit} bytes in Welcome")
        self.welcome = welcome
        self._credit = welcome.limits.stream_credit
        for call in self._calls.values():
            call._add_credit(self._credit - WINDOW)


def _to_proto(entries: Entries) -> list[Metadata]:
    return [Metadata(name=n, binary=v) if n.endswith("-bin") else Metadata(name=n, text=v) for n, v in entries]


def _from_proto(entries) -> Entries:
    return [(e.name, e.binary if e.name.endswith("-bin") else e.text) for e in entries]
