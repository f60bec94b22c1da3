#!/usr/bin/env python3
"""Runs bidiway_client.py against `bidiway demo`, and the golden packets of tests/vectors through its protobuf classes.

    python check.py [--binary ../../target/debug/bidiway] [--only WORD]

Ends non-zero when anything failed.
"""

import argparse
import asyncio
import base64
import json
import pathlib
import re
import signal
import sys
import time
import traceback

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
LIMIT = 60  # seconds for one check


def generate():
    """session_pb2.py and demo_pb2.py beside this file, from the proto files of the tree."""
    from grpc_tools import protoc

    for proto in (ROOT / "proto/bidiway/v1/session.proto", ROOT / "proto/demo/v1/demo.proto"):
        if protoc.main(["protoc", f"-I{proto.parent}", f"--python_out={HERE}", proto.name]) != 0:
            sys.exit(f"protoc refuses {proto}")


generate()

import websockets  # noqa: E402
from google.protobuf import json_format  # noqa: E402
from google.rpc import error_details_pb2, status_pb2  # noqa: E402

import demo_pb2 as demo  # noqa: E402
from bidiway_client import (  # noqa: E402
    CANCELLED,
    DEADLINE_EXCEEDED,
    INVALID_ARGUMENT,
    OK,
    PIECE,
    RESOURCE_EXHAUSTED,
    UNAVAILABLE,
    WINDOW,
    CallFailed,
    Session,
    Violation,
    read_packet,
)
from session_pb2 import Frame, Packet  # noqa: E402

LAB = "/demo.v1.Lab/"
MIB = 1 << 20
PROXY = ("bidiway-origin", "proxy")
UNPROCESSED = ("bidiway-unprocessed", "1")
CHECKS, SLOW = [], []


def check(function):
    CHECKS.append(function)
    return function


def slow_check(function):
    """For what waits more than it works: runs beside the others."""
    SLOW.append(function)
    return function


def equal(got, wanted, what=""):
    if got != wanted:
        got, wanted = repr(got), repr(wanted)
        raise AssertionError(f"{what}: got {got[:300]}, wanted {wanted[:300]}")


class Demo:
    """A `bidiway demo` of our own, on free ports."""

    async def __aenter__(self):
        ports = [f"--{name}=127.0.0.1:0" for name in ("http", "https", "admin", "services")]
        self.process = await asyncio.create_subprocess_exec(
            BINARY, "demo", *ports, "--log=warn", stdout=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(20):
            while line := (await self.process.stdout.readline()).decode():
                if found := re.search(r"the page\s+http://(\S+?)/", line):
                    self.url = f"ws://{found[1]}/bidiway/session"
                    return self
        raise RuntimeError("the demo told no address")

    async def __aexit__(self, *_):
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()

    def session(self, **options):
        return Session.connect(self.url, **options)

    async def raw(self, *frames):
        """A WebSocket on which these frames were sent, without a session's care."""
        ws = await websockets.connect(self.url, subprotocols=["bidiway.v1"], ping_interval=None)
        if frames:
            await ws.send(Packet(frames=frames).SerializeToString())
        return ws


def payload(number=0, text="", data=b""):
    return demo.Payload(number=number, text=text, data=data).SerializeToString()


def number_of(message):
    return demo.Payload.FromString(message).number


async def failure(call):
    """The status of a call that has to fail, and the messages before it."""
    messages = []
    try:
        async for message in call:
            messages.append(message)
    except CallFailed as failed:
        return failed.status, messages
    raise AssertionError("the call ended with OK")


async def stats(session, tag):
    return demo.StatsReply.FromString(
        await session.unary(LAB + "Stats", demo.StatsRequest(tag=tag).SerializeToString())
    )


async def eventually(what, condition):
    """Until the condition holds: what a service sees of a cancel comes a moment later."""
    end = time.monotonic() + 10
    while not await condition():
        if time.monotonic() > end:
            raise AssertionError(f"never came true: {what}")
        await asyncio.sleep(0.02)


def hello(**fields):
    frame = Frame()
    frame.hello.versions.append(1)
    for name, value in fields.items():
        setattr(frame.hello, name, value)
    return frame


def opens(stream, method=LAB + "Bidi", **fields):
    frame = Frame(stream=stream)
    frame.open.method = method
    for name, value in fields.items():
        setattr(frame.open, name, value)
    return frame


def packets_of(frames):
    """Few and large ones, so that the proxy has no time to answer in between."""
    frames, packet = list(frames), b""
    while frames:
        packet = b""
        while frames and len(packet) < 200_000:
            packet += Packet(frames=[frames.pop(0)]).SerializeToString()  # packets concatenate
        yield packet


async def frames_until_close(ws):
    """Every frame until the proxy closes, the code and the reason."""
    frames = []
    try:
        while True:
            frames += read_packet(await ws.recv())
    except websockets.ConnectionClosed as closed:
        return frames, closed.rcvd.code if closed.rcvd else 1006, closed.rcvd.reason if closed.rcvd else ""


async def next_frame(ws, kind, stream=0):
    """The next frame of this kind; of those before it nothing is kept, and the rest of its packet is lost."""
    while True:
        for frame in read_packet(await ws.recv()):
            if frame.WhichOneof("kind") == kind and frame.stream == stream:
                return frame


# ---- the golden packets


@check
async def golden_packets_decode_to_what_they_say(_):
    vectors = json.loads((ROOT / "tests/vectors/packets.json").read_text())
    for case in vectors["packets"]:
        packet = bytes.fromhex(case["hex"])
        wanted = Packet(frames=[json_format.ParseDict(frame, Frame()) for frame in case["frames"]])
        read = Packet(frames=read_packet(packet))
        read.DiscardUnknownFields()
        equal(read, wanted, case["name"])
        if not case["read_only"]:
            equal(wanted.SerializeToString(deterministic=True).hex(), case["hex"], case["name"])
    for case in vectors["refused"]:
        try:
            read_packet(bytes.fromhex(case["hex"]))
        except Violation:
            continue
        raise AssertionError(f"{case['name']}: was read")
    equal((len(vectors["packets"]) > 30, len(vectors["refused"]) > 10), (True, True), "enough vectors")


@check
async def dialogues_of_the_document_decode(_):
    text = (ROOT / "docs/protocol.md").read_text()
    packets = []
    for block in re.findall(r"```hex\n(.*?)```", text, re.S):
        for line in block.splitlines():
            line = line.split("#")[0]
            if line[0] in "<>":
                packets.append("")
            packets[-1] += line.lstrip("<> ")
    for packet in packets:
        read_packet(bytes.fromhex(packet))
    equal(len(packets) > 15, True, "enough packets")


# ---- calls


@check
async def unary(proxy):
    async with await proxy.session() as session:
        reply = await session.unary("/demo.v1.Greeter/Hello", demo.HelloRequest(name="Ada").SerializeToString())
        equal("Ada" in demo.HelloReply.FromString(reply).text, True, "greeting")
        equal(demo.Payload.FromString(await session.unary(LAB + "Unary", payload(7, "seven"))).text, "seven")


@check
async def server_streaming(proxy):
    async with await proxy.session() as session:
        call = session.open(LAB + "ServerStream")
        await call.send(demo.StreamRequest(count=500, size=100).SerializeToString(), last=True)
        equal([number_of(message) async for message in call], list(range(1, 501)))
        equal((await call.status()).code, OK)


@check
async def client_streaming(proxy):
    async with await proxy.session() as session:
        call = session.open(LAB + "ClientStream")
        for number in range(300):
            await call.send(payload(number, data=bytes(number)))
        await call.half_close()
        summary = demo.Summary.FromString([message async for message in call][0])
        equal((summary.messages, summary.bytes), (300, sum(range(300))))


@check
async def bidirectional_thousand_rounds(proxy):
    async with await proxy.session() as session:
        call = session.open(LAB + "Bidi")
        for number in range(1, 1001):
            await call.send(payload(number))
            equal(number_of(await anext(call)), number)
        await call.half_close()
        equal([message async for message in call], [])
        equal((await call.status()).code, OK)


@check
async def one_mebibyte_each_way(proxy):
    data = bytes(range(256)) * (MIB // 256)
    for stream_credit in (0, 16_384, 2 * MIB):
        async with await proxy.session(stream_credit=stream_credit) as session:
            reply = await session.unary(LAB + "Unary", payload(data=data))
            equal(demo.Payload.FromString(reply).data == data, True, f"unary, window {stream_credit}")
            call = session.open(LAB + "Bidi")
            for number in range(3):
                await call.send(payload(number, data=data), last=number == 2)
                equal(demo.Payload.FromString(await anext(call)).data == data, True, f"bidi, window {stream_credit}")
            equal([message async for message in call], [])


@check
async def first_message_larger_than_the_credit_before_welcome(proxy):
    async with await proxy.session() as session:
        equal(session.welcome, None, "Welcome")
        equal(len(await session.unary(LAB + "Unary", payload(data=bytes(200_000)))) > 200_000, True)
        equal(session.welcome.version, 1)


@check
async def hundred_streams_at_once(proxy):
    async def talk(session, name):
        call = session.open(LAB + "Bidi")

        async def speak():
            for number in range(40):
                await call.send(payload(number, str(name), bytes(number * 97)))
            await call.half_close()

        speaker = asyncio.create_task(speak())
        replies = [demo.Payload.FromString(message) async for message in call]
        await speaker
        equal([(r.number, r.text, len(r.data)) for r in replies], [(n, str(name), n * 97) for n in range(40)])

    async with await proxy.session() as session:
        await asyncio.gather(*(talk(session, name) for name in range(100)))
        equal(len(session._calls), 0, "open calls")


@check
async def empty_messages(proxy):
    async with await proxy.session() as session:
        equal(await session.unary(LAB + "Unary", b""), b"")
        call = session.open(LAB + "Bidi")
        for _ in range(5000):  # 32 bytes of credit each: more than a window
            await call.send(b"")
            equal(await anext(call), b"")
        await call.send(b"", last=True)
        equal([message async for message in call], [b""])
        call = session.open(LAB + "ClientStream")
        await call.half_close()
        equal(demo.Summary.FromString([message async for message in call][0]).messages, 0, "no message at all")


@check
async def half_close_without_messages_ends_a_bidi_stream(proxy):
    async with await proxy.session() as session:
        call = session.open(LAB + "Bidi")
        await call.half_close()
        equal([message async for message in call], [])


# ---- metadata


@check
async def metadata_repeated_and_binary(proxy):
    sent = [
        ("x-one", "first"),
        ("x-bytes-bin", bytes(range(256))),
        ("x-one", "second, with a comma"),
        ("demo-echo-text", "ä".encode().hex()),
        ("demo-echo-raw-bin", b"\x00\xff,"),
        ("demo-echo-raw-bin", b""),
        ("demo-echo-text", "again"),
    ]
    echoes = {
        "demo-echo-text": ["c3a4", "again"],
        "demo-echo-raw-bin": [b"\x00\xff,", b""],
    }
    async with await proxy.session() as session:
        call = session.open(LAB + "Metadata", metadata=sent, timeout=30)
        await call.send(b"", last=True)
        headers = await call.headers()
        reply = demo.MetadataReply.FromString([message async for message in call][0])
        trailers = (await call.status()).metadata
    arrived = [(e.name, e.binary if e.name.endswith("-bin") else e.text) for e in reply.entries]
    for name in {name for name, _ in sent}:
        of_name = [value for key, value in sent if key == name]
        equal([value for key, value in arrived if key == name], of_name, f"{name} at the service")
    equal([v for k, v in headers if k == "demo-initial"], ["one", "two"])
    equal([v for k, v in headers if k == "demo-initial-bin"], [bytes([0, 1, 2, 253, 254, 255])])
    equal([v for k, v in trailers if k == "demo-trailing"], ["one", "two"])
    equal([v for k, v in trailers if k == "demo-trailing-bin"], [bytes([255, 254, 253, 2, 1, 0])])
    for name, values in echoes.items():
        equal([v for k, v in headers if k == name], values, f"{name} in Headers")
        equal([v for k, v in trailers if k == name], values, f"{name} in Trailers")
    equal([k for k, _ in [*headers, *trailers] if k.startswith(("grpc-", "bidiway-", ":"))], [], "reserved names")
    equal(0 < reply.timeout_ms <= 30_000, True, f"timeout at the service: {reply.timeout_ms}")


@check
async def default_metadata_and_refresh(proxy):
    async def arrived(session, **options):
        reply = demo.MetadataReply.FromString(await session.unary(LAB + "Metadata", b"", **options))
        return [(e.name, e.text) for e in reply.entries if e.name in ("x-token", "x-user")]

    async with await proxy.session(metadata=[("x-token", "a"), ("x-user", "ada")]) as session:
        equal(await arrived(session), [("x-token", "a"), ("x-user", "ada")])
        equal(await arrived(session, metadata=[("x-token", "own")]), [("x-token", "own"), ("x-user", "ada")])
        session.refresh([("x-token", "b")])
        equal(await arrived(session), [("x-token", "b")])
        session.refresh([])
        equal(await arrived(session), [])


@check
async def bad_metadata_and_methods_end_the_call_alone(proxy):
    async with await proxy.session() as session:
        for what, code, method, metadata in [
            ("an unknown service", {12}, "/no.such.Service/Method", []),
            ("an unknown method", {12}, LAB + "NoSuchMethod", []),
            ("a malformed method", {3, 12}, "demo.v1.Lab.Unary", []),
            ("upper case", {0, 3}, LAB + "Unary", [("X-Upper", "1")]),
            ("a reserved name", {0, 3}, LAB + "Unary", [("grpc-something", "1")]),
            ("text that is not ASCII", {0, 3}, LAB + "Unary", [("x-text", "ä")]),
            ("too much", {8}, LAB + "Unary", [("x-text", "x" * session_metadata(session))]),
        ]:
            call = session.open(method, metadata=metadata)
            try:
                await call.send(payload(), last=True)
            except CallFailed:
                pass
            status = await call.status()
            print(f"      {what}: code {status.code}, {status.message!r} {list(status.metadata)}")
            equal(status.code in code, True, f"{what}: code {status.code}")
        await session.unary(LAB + "Unary", payload())


def session_metadata(session):
    return session.welcome.limits.max_metadata if session.welcome else 16_384


# ---- how calls end


@check
async def rich_failure(proxy):
    request = demo.FailRequest(
        code=9,
        message="nicht so – 100 % ☃",
        reason="NOT_READY",
        info={"key": "wert"},
        violations=[demo.FieldViolation(field="name", description="is empty")],
        after=3,
    ).SerializeToString()
    async with await proxy.session() as session:
        for method, messages in (("Fail", 0), ("FailStream", 3)):
            call = session.open(LAB + method, metadata=[("demo-echo-x", "1")])
            await call.send(request, last=True)
            status, before = await failure(call)
            equal((status.code, status.message), (9, "nicht so – 100 % ☃"), method)
            equal(len(before), messages, method)
            rich = status_pb2.Status.FromString(status.details)
            equal((rich.code, rich.message), (9, "nicht so – 100 % ☃"), method)
            info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
            found = [any_.Unpack(info) or any_.Unpack(bad) for any_ in rich.details]
            equal(found, [True, True], method)
            equal((info.reason, dict(info.metadata)), ("NOT_READY", {"key": "wert"}), method)
            equal(bad.field_violations[0].field, "name", method)
            equal("bidiway-origin" in dict(status.metadata), False, "made by the service")
            equal("grpc-status-details-bin" in dict(status.metadata), False, "details twice")
            if method == "Fail":
                equal(dict(status.metadata)["demo-echo-x"], "1")
        for code in range(1, 17):
            call = session.open(LAB + "Fail")
            await call.send(demo.FailRequest(code=code, message="m").SerializeToString(), last=True)
            equal((await failure(call))[0].code, code)


@check
async def deadline_of_the_proxy(proxy):
    async with await proxy.session() as session:
        for method in ("Wait", "WaitStream"):
            tag = f"deadline-{method}"
            call = session.open(LAB + method, metadata=[("demo-tag", tag)], timeout=0.3)
            call._timer.cancel()  # not our own
            start = time.monotonic()
            await call.send(b"", last=True)
            status, messages = await failure(call)
            # The service knows the deadline too. When it is the faster one, its library (tonic) says CANCELLED.
            by_proxy = PROXY in status.metadata
            equal(status.code, DEADLINE_EXCEEDED if by_proxy else CANCELLED, f"{method}: {status}")
            equal(len(messages), int(method == "WaitStream"), method)
            equal(0.25 < time.monotonic() - start < 5, True, "when")
            await eventually("cancelled", lambda tag=tag: cancelled(session, tag))


@check
async def deadline_of_our_own(proxy):
    async with await proxy.session() as session:
        call = session.open(LAB + "Wait", metadata=[("demo-tag", "own-deadline")], timeout=0.2)
        call2 = session.open(LAB + "Wait", timeout=0.0001)
        await call.send(b"", last=True)
        equal((await failure(call))[0].code, DEADLINE_EXCEEDED)
        equal((await failure(call2))[0].code, DEADLINE_EXCEEDED)
        await eventually("cancelled", lambda: cancelled(session, "own-deadline"))


async def cancelled(session, tag):
    reply = await stats(session, tag)
    return (reply.running, reply.cancelled) == (0, 1)


@check
async def cancel_reaches_the_service(proxy):
    async with await proxy.session() as session:
        for method in ("WaitStream", "Bidi"):
            tag = f"cancel-{method}"
            call = session.open(LAB + method, metadata=[("demo-tag", tag)])
            await call.send(payload(), last=method == "WaitStream")
            await anext(call)
            equal((await stats(session, tag)).running, 1)
            call.cancel()
            equal((await failure(call))[0].code, 1)
            await eventually("cancelled", lambda tag=tag: cancelled(session, tag))
        # Open and Cancel in the same packet: the number is used, and the session goes on.
        session.open(LAB + "Wait").cancel()
        await session.unary(LAB + "Unary", payload())


@check
async def cancel_races_with_trailers(proxy):
    """Late frames are nothing (§5): no cancel, wherever it falls, may hurt the session."""
    async with await proxy.session() as session:
        for number in range(300):
            call = session.open(LAB + "ServerStream")
            await call.send(demo.StreamRequest(count=20, size=500).SerializeToString(), last=True)
            for _ in range(number % 7):
                await asyncio.sleep(0)
            if number % 3 == 0:
                await anext(call)
            call.cancel()
        await session.unary(LAB + "Unary", payload())
        equal(session.closed.done(), False)


@check
async def losing_the_session_cancels_its_calls(proxy):
    session = await proxy.session()
    call = session.open(LAB + "WaitStream", metadata=[("demo-tag", "lost")])
    await call.send(b"", last=True)
    await anext(call)
    await session.close()
    equal((await failure(call))[0].code, UNAVAILABLE)
    async with await proxy.session() as other:
        await eventually("cancelled", lambda: cancelled(other, "lost"))


# ---- credit


@check
async def stalled_stream_holds_up_no_other(proxy):
    async with await proxy.session() as session:
        stalled = session.open(LAB + "ServerStream", metadata=[("demo-tag", "stalled")])
        await stalled.send(demo.StreamRequest(count=2000, size=10_000).SerializeToString(), last=True)
        await stalled.headers()
        other = session.open(LAB + "Bidi")
        for number in range(1, 301):
            await other.send(payload(number, data=bytes(5000)))
            equal(number_of(await anext(other)), number)
        waiting = sum(len(data) + 32 for data, _ in stalled._pieces._queue)
        equal(WINDOW // 2 < waiting <= WINDOW, True, f"what waits here: {waiting} bytes")
        sent = (await stats(session, "stalled")).sent
        equal(sent < 2000, True, f"the service was not held back: {sent} of 2000 messages sent")
        equal([number_of(message) async for message in stalled], list(range(1, 2001)))


@check
async def slow_service_holds_up_its_sender_and_no_other(proxy):
    async with await proxy.session() as session:
        slow = session.open(LAB + "ClientStream", metadata=[("demo-delay-ms", "60000")])

        async def pour():
            for _ in range(2000):
                await slow.send(bytes(0) + payload(data=bytes(10_000)))

        pouring = asyncio.create_task(pour())
        other = session.open(LAB + "Bidi")
        for number in range(1, 301):
            await other.send(payload(number, data=bytes(5000)))
            equal(number_of(await anext(other)), number)
        equal(pouring.done(), False, "everything was sent to a service that reads nothing")
        slow.cancel()
        try:
            await pouring
        except CallFailed as failed:
            equal(failed.status.code, 1)


@check
async def message_too_large_ends_the_call_alone(proxy):
    async with await proxy.session(max_message=5 * MIB) as session:
        await session.unary(LAB + "Unary", payload())
        limit = session.welcome.limits.max_message
        call = session.open(LAB + "ClientStream")
        try:
            await call.send(bytes(limit + 1))
        except CallFailed:
            pass
        status = await call.status()
        equal((status.code, PROXY in status.metadata), (RESOURCE_EXHAUSTED, True))
        equal(len(await session.unary(LAB + "Unary", payload(data=bytes(limit - 100)))) > limit - 100, True, "largest")
        for size in (limit + 100, 6 * MIB):
            call = session.open(LAB + "ServerStream")
            await call.send(demo.StreamRequest(count=1, size=size).SerializeToString(), last=True)
            try:
                got = [len(message) async for message in call]
            except CallFailed as failed:
                got = failed.status
            print(f"      from the service, {size - limit} over the limit: {got}")
        await session.unary(LAB + "Unary", payload())


# ---- the session


@check
async def compression_of_the_websocket_may_be_offered(proxy):
    async with await proxy.session(compression="deflate") as session:
        await session.unary(LAB + "Unary", payload(data=bytes(100_000)))
        print(f"      extensions that the proxy took: {session._ws.protocol.extensions}")


@check
async def other_paths_and_other_subprotocols(proxy):
    url = proxy.url.replace("/bidiway/session", "/anything/else")
    async with await Session.connect(url) as session:
        await session.unary(LAB + "Unary", payload())
    async with websockets.connect(proxy.url, subprotocols=["other", "bidiway.v1"]) as ws:
        equal(ws.subprotocol, "bidiway.v1")


@check
async def ping_is_answered(proxy):
    ws = await proxy.raw(hello(), Frame(ping=0), Frame(ping=2**64 - 1))
    equal((await next_frame(ws, "pong")).pong in (0, 2**64 - 1), True)
    await ws.close()


@check
async def more_streams_than_allowed_are_refused(proxy):
    async with await proxy.session() as session:
        await session.unary(LAB + "Unary", payload())
        limit = session.welcome.limits.max_streams
        calls = [session.open(LAB + "Bidi") for _ in range(limit)]
        try:
            session.open(LAB + "Bidi")
            raise AssertionError("the client let it through")
        except CallFailed as failed:
            equal(failed.status.code, RESOURCE_EXHAUSTED)
        session.welcome.limits.max_streams += 1
        refused = session.open(LAB + "Bidi")
        status = await refused.status()
        equal(status.code, RESOURCE_EXHAUSTED)
        equal((PROXY in status.metadata, UNPROCESSED in status.metadata), (True, True), f"{status}")
        calls[0].cancel()
        equal(await session.unary(LAB + "Unary", b"", timeout=10), b"")
        for call in calls:
            call.cancel()


@check
async def violations_close_with_what_the_table_says(proxy):
    half_close = Frame(stream=1)
    half_close.half_close.SetInParent()
    no_version = Frame()
    no_version.hello.versions.append(99)
    headers = Frame(stream=1)
    headers.headers.SetInParent()
    on_stream = hello()
    on_stream.stream = 1
    too_much = hello()
    too_much.hello.metadata.add(name="x", text="x" * 20_000)
    for what, code, frames in [
        ("first not Hello", 4003, [Frame(ping=1)]),
        ("no common version", 4009, [no_version]),
        ("Hello twice", 4003, [hello(), hello()]),
        ("Hello on a stream", 4003, [on_stream]),
        ("stream_credit too small", 4003, [hello(stream_credit=16_383)]),
        ("stream_credit of 2^31, which counts as one less", None, [hello(stream_credit=2**31)]),
        ("default metadata too large", 4008, [too_much]),
        ("a stream number left out", 4003, [hello(), opens(2)]),
        ("a stream number twice", 4003, [hello(), opens(1), opens(1)]),
        ("a stream never opened", 4003, [hello(), half_close]),
        ("Ping on a stream", 4003, [hello(), opens(1), Frame(stream=1, ping=1)]),
        ("data on the session", 4003, [hello(), Frame(data=b"x")]),
        ("Headers from the client", 4003, [hello(), opens(1), headers]),
        ("a frame without a kind", 4003, [hello(), Frame()]),
        ("remaining on Ping", 4003, [hello(), Frame(ping=1, remaining=1)]),
        ("last on an incomplete message", 4003, [hello(), opens(1), Frame(stream=1, data=b"x", remaining=1, last=True)]),
        ("Ack of more than was sent", 4003, [hello(), Frame(ack=1)]),
        ("data beyond the credit", 4008, [hello(), opens(1)] + [Frame(stream=1, data=bytes(PIECE))] * 40),
        ("Opens far beyond max_streams", 4008, [hello()] + [opens(n) for n in range(1, 2000)]),
    ]:
        ws = await proxy.raw()
        for packet in packets_of(frames):
            await ws.send(packet)
        if code is None:
            try:
                async with asyncio.timeout(1):
                    _, got, reason = await frames_until_close(ws)
            except TimeoutError:
                got, reason = "open", ""
            equal(got, "open", f"{what} ({reason})")
            await ws.close()
            continue
        before, got, reason = await frames_until_close(ws)
        print(f"      {what}: {got} {reason!r}")
        equal(got, code, f"{what} ({reason})")
        if what in ("first not Hello", "no common version"):
            equal(before, [], f"{what}: frames before the close")
        if what == "first not Hello":
            equal(reason, "the first frame must be Hello, not Ping")
    ws = await proxy.raw(hello())
    await ws.send("text")
    equal((await frames_until_close(ws))[1], 4003, "text")
    ws = await proxy.raw(hello())
    await ws.send(b"\x0a\x05\x08")
    equal((await frames_until_close(ws))[1], 4003, "malformed")
    for size, code in ((262_144, 4003), (262_145, 4008), (1_000_000, 4008)):  # malformed, but of an allowed size
        ws = await proxy.raw(hello())
        await ws.send(b"\xff" * size)
        _, got, reason = await frames_until_close(ws)
        print(f"      a packet of {size} bytes: {got} {reason!r}")
        equal(got, code, f"a packet of {size} bytes")


@check
async def violations_on_a_stream_reset_it_alone(proxy):
    half_close = Frame(stream=1)
    half_close.half_close.SetInParent()
    for what, code, frames in [
        ("credit of 0", INVALID_ARGUMENT, [Frame(stream=1, credit=0)]),
        ("credit beyond the cap", INVALID_ARGUMENT, [Frame(stream=1, credit=2**31)]),
        ("credit of 2^64 - 1", INVALID_ARGUMENT, [Frame(stream=1, credit=2**64 - 1)]),
        ("data after HalfClose", INVALID_ARGUMENT, [half_close, Frame(stream=1, data=b"x")]),
        ("data after last", INVALID_ARGUMENT, [Frame(stream=1, data=b"", last=True), Frame(stream=1, data=b"")]),
        ("HalfClose twice", INVALID_ARGUMENT, [half_close, half_close]),
        ("HalfClose inside a message", INVALID_ARGUMENT, [Frame(stream=1, data=b"x", remaining=1), half_close]),
        ("an empty piece", INVALID_ARGUMENT, [Frame(stream=1, data=b"", remaining=1)]),
        (
            "wrong remaining",
            INVALID_ARGUMENT,
            [Frame(stream=1, data=b"x", remaining=5), Frame(stream=1, data=b"x", remaining=3)],
        ),
        ("too large by 2^64", RESOURCE_EXHAUSTED, [Frame(stream=1, data=b"x", remaining=2**64 - 1)]),
        ("a codec that nobody knows", 12, "codec 7"),
        ("a message of a JSON stream that is no JSON", INVALID_ARGUMENT, "codec 1"),
    ]:
        if isinstance(frames, str):
            packet = [hello(), opens(1, codec=int(frames[-1])), Frame(stream=1, data=b"{", last=True)]
        elif what.startswith(("data after", "HalfClose twice")):
            # On a call that does not end by itself meanwhile.
            packet = [hello(), opens(1, LAB + "WaitStream"), *frames]
        else:
            packet = [hello(), opens(1), *frames]
        ws = await proxy.raw(*packet)
        trailers = (await next_frame(ws, "trailers", 1)).trailers
        print(f"      {what}: code {trailers.code}, {trailers.message!r}")
        equal(trailers.code, code, what)
        equal(("bidiway-origin", "proxy") in [(m.name, m.text) for m in trailers.metadata], True, what)
        await ws.send(Packet(frames=[Frame(stream=1, data=b"late"), opens(2), Frame(ping=1)]).SerializeToString())
        await next_frame(ws, "pong")
        await ws.close()


@slow_check
async def hello_has_to_come_in_time(proxy):
    ws = await proxy.raw()
    start = time.monotonic()
    frames, code, reason = await frames_until_close(ws)
    equal((frames, code), ([], 4004), reason)
    equal(9 < time.monotonic() - start < 15, True, "when")


@slow_check
async def healthy_session_outlives_two_ping_intervals(proxy):
    """It is silent but for Ping and Pong; the proxy closes sessions that do not answer."""
    async with await proxy.session() as session:
        await session.unary(LAB + "Unary", payload())
        pings = []
        put = session._put
        session._put = lambda frame: (pings.append(frame.pong), put(frame))
        await asyncio.sleep(min(session.welcome.ping_interval_ms * 2.2 / 1000, LIMIT - 10))
        session._put = put
        equal(session.closed.done(), False)
        equal(len(pings) >= 2, True, f"pings {pings}")
        await session.unary(LAB + "Unary", payload())


@slow_check
async def silent_client_is_given_up(proxy):
    """One that answers neither Ping nor the WebSocket ping that comes with it: no library does that, so by hand."""
    host, port = proxy.url.split("/")[2].split(":")
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(
        f"GET / HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Protocol: bidiway.v1\r\n\r\n".encode()
    )
    equal(b" 101 " in await reader.readuntil(b"\r\n\r\n"), True, "upgraded")
    packet = Packet(frames=[hello()]).SerializeToString()
    writer.write(bytes([0x82, 0x80 | len(packet), 0, 0, 0, 0]) + packet)  # masked with zeros
    start, messages = time.monotonic(), []
    while not messages or messages[-1][0] != 0x88:
        opcode, size = await reader.readexactly(2)
        messages.append((opcode, await reader.readexactly(size)))
    interval = read_packet(messages[0][1])[0].welcome.ping_interval_ms / 1000
    equal(int.from_bytes(messages[-1][1][:2]), 4014, "close code")
    equal(1.9 * interval < time.monotonic() - start < 3 * interval, True, f"after {time.monotonic() - start} s")
    equal([opcode for opcode, _ in messages[1:-1]].count(0x82) >= 1, True, "a Ping before")
    writer.close()


# ---- the end, each with a proxy of its own


@check
async def go_away_on_sigterm(_):
    async with Demo() as proxy:
        session = await proxy.session()
        idle = await proxy.session()
        await idle.unary(LAB + "Unary", payload())
        call = session.open(LAB + "Bidi")
        await call.send(payload(1))
        equal(number_of(await anext(call)), 1)
        proxy.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(10):
            while not session.go_away:
                await asyncio.sleep(0.01)
        equal(session.go_away.last_stream, 1, "last_stream")
        print(f"      {str(session.go_away).strip()!r}".replace("\\n", ", "))
        try:
            session.open(LAB + "Unary")
            raise AssertionError("a call after GoAway")
        except CallFailed as failed:
            equal(failed.status.code, UNAVAILABLE)
        # As if the Open had been on its way already.
        go_away, session.go_away = session.go_away, None
        crossed = session.open(LAB + "Unary")
        session.go_away = go_away
        status = await crossed.status()
        equal((status.code, PROXY in status.metadata, UNPROCESSED in status.metadata), (UNAVAILABLE, True, True))
        for number in range(2, 100):
            await call.send(payload(number, data=bytes(3000)))
            equal(number_of(await anext(call)), number)
        equal((await asyncio.wait_for(asyncio.shield(idle.closed), 10))[0], 1001, "close of the idle session")
        equal(idle.go_away is not None, True, "GoAway before the close of the idle session")
        await call.half_close()
        equal([message async for message in call], [])
        equal((await call.status()).code, OK)
        equal((await asyncio.wait_for(asyncio.shield(session.closed), 10))[0], 1001, "close")
        equal(await asyncio.wait_for(proxy.process.wait(), 20), 0, "exit code of the proxy")


@check
async def lost_carrier_ends_calls_with_unavailable(_):
    async with Demo() as proxy:
        session = await proxy.session()
        call = session.open(LAB + "WaitStream")
        await call.send(b"", last=True)
        await anext(call)
        proxy.process.kill()
        await proxy.process.wait()
        equal((await failure(call))[0].code, UNAVAILABLE)
        equal((await session.closed)[0], 1006)


async def run(function, proxy):
    """Whether the check passes."""
    name, start = function.__name__.replace("_", " "), time.monotonic()
    try:
        async with asyncio.timeout(LIMIT):
            await function(proxy)
    except Exception as error:
        traceback.print_exc()
        print(f"FAILED {name}: {type(error).__name__} {error}", flush=True)
        return False
    print(f"ok     {name} ({time.monotonic() - start:.1f} s)", flush=True)
    return True


async def main(only):
    def chosen(functions):
        return [f for f in functions if not only or only in f.__name__.replace("_", " ")]

    async with Demo() as proxy:
        slow = [asyncio.create_task(run(function, proxy)) for function in chosen(SLOW)]
        results = [await run(function, proxy) for function in chosen(CHECKS)]
        results += [await task for task in slow]
        if proxy.process.returncode is not None:
            results.append(False)
            print(f"FAILED: the proxy ended with {proxy.process.returncode}")
    failed = results.count(False)
    print(f"{len(results) - failed} passed, {failed} failed")
    return 1 if failed or not results else 0


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--binary", default=str(ROOT / "target/debug/bidiway"))
    arguments.add_argument("--only", help="only the checks whose name has this in it")
    arguments = arguments.parse_args()
    BINARY = arguments.binary
    sys.exit(asyncio.run(main(arguments.only)))
