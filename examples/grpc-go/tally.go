package main

import (
	"context"
	"sync"

	"google.golang.org/grpc/metadata"

	"bidiway.example/lab/demopb"
)

// A tally counts the calls of one tag.
type tally struct{ running, completed, cancelled uint64 }

type tallies struct {
	mu    sync.Mutex
	byTag map[string]*tally
}

// begin counts a call as running; the function that it returns counts it as completed, or as cancelled when its
// context was. The empty tag stands for all calls.
func (t *tallies) begin(ctx context.Context) func() {
	tags := map[string]bool{"": true, first(ctx, "demo-tag"): true}
	count := func(change func(*tally)) {
		t.mu.Lock()
		defer t.mu.Unlock()
		for tag := range tags {
			if t.byTag[tag] == nil {
				t.byTag[tag] = &tally{}
			}
			change(t.byTag[tag])
		}
	}
	count(func(t *tally) { t.running++ })
	return func() {
		gone := ctx.Err() != nil
		count(func(t *tally) {
			t.running--
			if gone {
				t.cancelled++
			} else {
				t.completed++
			}
		})
	}
}

func (t *tallies) read(tag string) *demopb.StatsReply {
	t.mu.Lock()
	defer t.mu.Unlock()
	found := t.byTag[tag]
	if found == nil {
		return &demopb.StatsReply{}
	}
	return &demopb.StatsReply{Running: found.running, Completed: found.completed, Cancelled: found.cancelled}
}

// first is the first value of a request's metadata entry, or "".
func first(ctx context.Context, name string) string {
	if values := metadata.ValueFromIncomingContext(ctx, name); len(values) > 0 {
		return values[0]
	}
	return ""
}
