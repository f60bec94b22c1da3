"""The Lab of proto/demo/v1/demo.proto as a grpcio server: an ordinary one, that knows nothing of browsers."""

import argparse
import asyncio
import collections
import contextlib
import pathlib
import sys
import time

import grpc
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_reflection.v1alpha import reflection

# Makes the classes from the .proto file as it is imported (grpcio-tools), so that there is no generated code here.
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "proto"))
pb, services = grpc.protos_and_services("demo/v1/demo.proto")

CODES = {code.value[0]: code for code in grpc.StatusCode}


class Lab(services.LabServicer):
    def __init__(self):
        self.stats = collections.defaultdict(pb.StatsReply)

    @contextlib.contextmanager
    def counted(self, context):
        """Counts a call as running, then as completed or cancelled. The empty tag stands for all calls."""
        tag = dict(context.invocation_metadata()).get("demo-tag", "")
        tallies = [self.stats[name] for name in {"", tag}]
        for tally in tallies:
            tally.running += 1
        end = "completed"
        try:
            yield
        except (asyncio.CancelledError, GeneratorExit):
            end = "cancelled"
            raise
        finally:
            for tally in tallies:
                tally.running -= 1
                setattr(tally, end, getattr(tally, end) + 1)

    async def Unary(self, request, context):
        with self.counted(context):
            await asyncio.sleep(delay(context))
            return request

    async def ServerStream(self, request, context):
        with self.counted(context):
            for number in range(1, request.count + 1):
                if number > 1 and request.interval_ms:
                    await asyncio.sleep(request.interval_ms / 1000)
                yield payload(number, request.size)

    async def ClientStream(self, requests, context):
        with self.counted(context):
            summary = pb.Summary()
            async for message in requests:
                summary.messages += 1
                summary.bytes += len(message.text.encode()) + len(message.data)
                await asyncio.sleep(delay(context))
            return summary

    async def Bidi(self, requests, context):
        with self.counted(context):
            async for message in requests:
                yield message

    async def Fail(self, request, context):
        with self.counted(context):
            await fail(request, context)

    async def FailStream(self, request, context):
        with self.counted(context):
            for number in range(1, request.after + 1):
                yield payload(number)
            await fail(request, context)

    async def Metadata(self, request, context):
        with self.counted(context):
            reply = pb.MetadataReply()
            for name, value in sorted(context.invocation_metadata(), key=lambda entry: entry[0]):
                binary = isinstance(value, bytes)
                reply.entries.add(name=name, text="" if binary else value, binary=value if binary else b"")
            remaining = context.time_remaining()
            # Without a deadline, grpcio tells of one in the far future.
            if remaining is not None and remaining < 10**6:
                reply.timeout_ms = int(remaining * 1000)
            both = echoes(context)
            await context.send_initial_metadata(
                both + pair("demo-initial", bytes([0, 1, 2, 0xFD, 0xFE, 0xFF]))
            )
            context.set_trailing_metadata(both + pair("demo-trailing", bytes([0xFF, 0xFE, 0xFD, 2, 1, 0])))
            return reply

    async def Wait(self, request, context):
        with self.counted(context):
            await asyncio.Event().wait()

    async def WaitStream(self, request, context):
        with self.counted(context):
            yield payload(1)
            await asyncio.Event().wait()

    async def Stats(self, request, context):
        return self.stats[request.tag]


def payload(number, size=0):
    return pb.Payload(number=number, data=b"." * size, time_ms=time.time_ns() // 1_000_000)


def delay(context):
    return int(dict(context.invocation_metadata()).get("demo-delay-ms", 0)) / 1000


def pair(name, binary):
    return ((name, "one"), (name, "two"), (f"{name}-bin", binary))


def echoes(context):
    return tuple((k, v) for k, v in context.invocation_metadata() if k.startswith("demo-echo-"))


async def fail(request, context):
    """Ends the call with the status that the request orders, details and all."""
    if request.code not in CODES or request.code == 0:
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"code must be 1 to 16, is {request.code}")
    details = []
    if request.reason:
        info = error_details_pb2.ErrorInfo(reason=request.reason, domain="demo.bidiway", metadata=request.info)
        details.append(info)
    if request.violations:
        bad = error_details_pb2.BadRequest()
        for violation in request.violations:
            bad.field_violations.add(field=violation.field, description=violation.description)
        details.append(bad)
    trailing = echoes(context) + (("demo-trailing", "failed"),)
    if details:
        status = status_pb2.Status(code=request.code, message=request.message)
        for detail in details:
            packed = any_pb2.Any()
            packed.Pack(detail)
            status.details.append(packed)
        trailing += (("grpc-status-details-bin", status.SerializeToString()),)
    await context.abort(CODES[request.code], request.message, trailing)


async def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--address", default="127.0.0.1:50051", help="port 0 takes a free one")
    arguments.add_argument("--option", action="append", default=[], help="a channel argument, NAME=NUMBER")
    given = arguments.parse_args()
    address = given.address
    pairs = (option.split("=") for option in given.option)
    server = grpc.aio.server(options=[(name, int(number)) for name, number in pairs])
    services.add_LabServicer_to_server(Lab(), server)
    names = (pb.DESCRIPTOR.services_by_name["Lab"].full_name, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    port = server.add_insecure_port(address)
    await server.start()
    print(f"listening on {address.rpartition(':')[0]}:{port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
