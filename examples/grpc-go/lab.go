package main

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"

	"bidiway.example/lab/demopb"
)

type lab struct {
	demopb.UnimplementedLabServer
	tallies tallies
}

func (l *lab) Unary(ctx context.Context, message *demopb.Payload) (*demopb.Payload, error) {
	defer l.tallies.begin(ctx)()
	return message, sleep(ctx, delay(ctx))
}

func (l *lab) ServerStream(request *demopb.StreamRequest, stream grpc.ServerStreamingServer[demopb.Payload]) error {
	defer l.tallies.begin(stream.Context())()
	for number := uint64(1); number <= uint64(request.Count); number++ {
		if number > 1 {
			if err := sleep(stream.Context(), time.Duration(request.IntervalMs)*time.Millisecond); err != nil {
				return err
			}
		}
		if err := stream.Send(payload(number, request.Size)); err != nil {
			return err
		}
	}
	return nil
}

func (l *lab) ClientStream(stream grpc.ClientStreamingServer[demopb.Payload, demopb.Summary]) error {
	defer l.tallies.begin(stream.Context())()
	summary := &demopb.Summary{}
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return stream.SendAndClose(summary)
		}
		if err != nil {
			return err
		}
		summary.Messages++
		summary.Bytes += uint64(len(message.Text) + len(message.Data))
		if err := sleep(stream.Context(), delay(stream.Context())); err != nil {
			return err
		}
	}
}

func (l *lab) Bidi(stream grpc.BidiStreamingServer[demopb.Payload, demopb.Payload]) error {
	defer l.tallies.begin(stream.Context())()
	for {
		message, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := stream.Send(message); err != nil {
			return err
		}
	}
}

func (l *lab) Fail(ctx context.Context, request *demopb.FailRequest) (*demopb.Payload, error) {
	defer l.tallies.begin(ctx)()
	if err := grpc.SetTrailer(ctx, failureMetadata(ctx)); err != nil {
		return nil, err
	}
	return nil, failure(request)
}

func (l *lab) FailStream(request *demopb.FailRequest, stream grpc.ServerStreamingServer[demopb.Payload]) error {
	defer l.tallies.begin(stream.Context())()
	stream.SetTrailer(failureMetadata(stream.Context()))
	for number := uint64(1); number <= uint64(request.After); number++ {
		if err := stream.Send(payload(number, 0)); err != nil {
			return err
		}
	}
	return failure(request)
}

func (l *lab) Metadata(ctx context.Context, _ *demopb.Empty) (*demopb.MetadataReply, error) {
	defer l.tallies.begin(ctx)()
	reply := &demopb.MetadataReply{}
	if deadline, ok := ctx.Deadline(); ok {
		reply.TimeoutMs = uint64(time.Until(deadline).Milliseconds())
	}
	incoming, _ := metadata.FromIncomingContext(ctx)
	for name, values := range incoming {
		for _, value := range values {
			entry := &demopb.MetadataEntry{Name: name}
			if strings.HasSuffix(name, "-bin") {
				entry.Binary = []byte(value)
			} else {
				entry.Text = value
			}
			reply.Entries = append(reply.Entries, entry)
		}
	}
	slices.SortStableFunc(reply.Entries, func(a, b *demopb.MetadataEntry) int { return strings.Compare(a.Name, b.Name) })
	initial := metadata.Pairs("demo-initial", "one", "demo-initial", "two", "demo-initial-bin", "\x00\x01\x02\xfd\xfe\xff")
	trailing := metadata.Pairs("demo-trailing", "one", "demo-trailing", "two", "demo-trailing-bin", "\xff\xfe\xfd\x02\x01\x00")
	if err := grpc.SetHeader(ctx, metadata.Join(initial, echoes(ctx))); err != nil {
		return nil, err
	}
	return reply, grpc.SetTrailer(ctx, metadata.Join(trailing, echoes(ctx)))
}

func (l *lab) Wait(ctx context.Context, _ *demopb.Empty) (*demopb.Payload, error) {
	defer l.tallies.begin(ctx)()
	<-ctx.Done()
	return nil, status.FromContextError(ctx.Err()).Err()
}

func (l *lab) WaitStream(_ *demopb.Empty, stream grpc.ServerStreamingServer[demopb.Payload]) error {
	defer l.tallies.begin(stream.Context())()
	if err := stream.Send(payload(1, 0)); err != nil {
		return err
	}
	<-stream.Context().Done()
	return status.FromContextError(stream.Context().Err()).Err()
}

func (l *lab) Stats(_ context.Context, request *demopb.StatsRequest) (*demopb.StatsReply, error) {
	return l.tallies.read(request.Tag), nil
}

func payload(number uint64, size uint32) *demopb.Payload {
	return &demopb.Payload{Number: number, Data: make([]byte, size), TimeMs: time.Now().UnixMilli()}
}

func delay(ctx context.Context) time.Duration {
	ms, _ := strconv.Atoi(first(ctx, "demo-delay-ms"))
	return time.Duration(ms) * time.Millisecond
}

func sleep(ctx context.Context, pause time.Duration) error {
	select {
	case <-time.After(pause):
		return nil
	case <-ctx.Done():
		return status.FromContextError(ctx.Err()).Err()
	}
}

func echoes(ctx context.Context) metadata.MD {
	found := metadata.MD{}
	incoming, _ := metadata.FromIncomingContext(ctx)
	for name, values := range incoming {
		if strings.HasPrefix(name, "demo-echo-") {
			found[name] = values
		}
	}
	return found
}

func failureMetadata(ctx context.Context) metadata.MD {
	return metadata.Join(echoes(ctx), metadata.Pairs("demo-trailing", "failed"))
}

// failure is the status that the request orders, details and all.
func failure(request *demopb.FailRequest) error {
	if request.Code < 1 || request.Code > 16 {
		return status.Errorf(codes.InvalidArgument, "code must be 1 to 16, is %d", request.Code)
	}
	var details []protoadapt.MessageV1
	if request.Reason != "" {
		details = append(details, &errdetails.ErrorInfo{Reason: request.Reason, Domain: "demo.bidiway", Metadata: request.Info})
	}
	if len(request.Violations) > 0 {
		bad := &errdetails.BadRequest{}
		for _, violation := range request.Violations {
			bad.FieldViolations = append(bad.FieldViolations,
				&errdetails.BadRequest_FieldViolation{Field: violation.Field, Description: violation.Description})
		}
		details = append(details, bad)
	}
	failed, err := status.New(codes.Code(request.Code), request.Message).WithDetails(details...)
	if err != nil {
		return err
	}
	return failed.Err()
}
