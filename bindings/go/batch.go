// Transfers: what is asked for, and what becomes of it.

package transferengine

// #include <transfer_engine_c.h>
import "C"

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

const (
	submitCall           = "submitTransfer"
	submitWithNotifyCall = "submitTransferWithNotify"
)

// Op is the direction of a request.
type Op int32

const (
	Read  Op = C.OPCODE_READ  // from the segment
	Write Op = C.OPCODE_WRITE // to the segment
)

// Request is one range of bytes to move: Length bytes at Offset of Region, and as many at Address,
// which the segment's process has registered. A Length of 0 moves nothing.
type Request struct {
	Op      Op
	Segment *Segment
	Address uint64
	Region  *Region
	Offset  int // bytes
	Length  int // bytes
}

// Status is what has become of a request.
type Status int32

const (
	Waiting   Status = C.STATUS_WAITING // not begun, or under way
	Pending   Status = C.STATUS_PENDING // under way
	Invalid   Status = C.STATUS_INVALID
	Canceled  Status = C.STATUS_CANCELED
	Completed Status = C.STATUS_COMPLETED // every byte is in the destination's memory
	TimedOut  Status = C.STATUS_TIMEOUT   // written bytes may still land at the peer
	Failed    Status = C.STATUS_FAILED
)

var statusNames = [...]string{"Waiting", "Pending", "Invalid", "Canceled", "Completed", "TimedOut", "Failed"}

func (s Status) String() string {
	if s >= 0 && int(s) < len(statusNames) {
		return statusNames[s]
	}
	return fmt.Sprintf("Status(%d)", int32(s))
}

// HasEnded says whether it stays as it is.
func (s Status) HasEnded() bool { return s != Waiting && s != Pending }

// Batch is requests that were started together. It is closed by whoever submitted them.
type Batch struct {
	engine   *Engine
	id       C.batch_id_t // INVALID_BATCH until it is allocated
	requests int          // 0 until they are submitted
	regions  []*Region    // not closed before the batch

	mu     sync.Mutex // during Close
	closed bool
}

// Submit starts all of requests, whose bytes move in no order. The regions that they name cannot be
// closed until the batch has been. An [Error] with a code: a peer is gone, or has not registered
// what a request names; some bytes may have moved, and local memory is not touched any more.
func (e *Engine) Submit(requests []Request) (*Batch, error) {
	return e.submit(requests, nil)
}

// SubmitWithNotify does the same; the owner of the first request's segment gets the notification
// once all bytes have arrived. Blocks for the others where the requests go to several segments, or
// are both reads and writes. No request at all is an error.
func (e *Engine) SubmitWithNotify(requests []Request, name, message string) (*Batch, error) {
	texts, err := toC(submitWithNotifyCall, name, message)
	if err != nil {
		return nil, err
	}
	defer texts.free()
	return e.submit(requests, texts)
}

// WriteTo moves length bytes at offset of region to address, which the segment's process has
// registered, and returns when they are there. When ctx ends first, the transfer goes on, and region
// is [ErrInUse] until it has ended.
func (e *Engine) WriteTo(ctx context.Context, segment *Segment, address uint64, region *Region, offset, length int) error {
	return e.transfer(ctx, Request{Write, segment, address, region, offset, length})
}

// ReadFrom moves as many bytes the other way, and is like [Engine.WriteTo] in everything else.
func (e *Engine) ReadFrom(ctx context.Context, segment *Segment, address uint64, region *Region, offset, length int) error {
	return e.transfer(ctx, Request{Read, segment, address, region, offset, length})
}

// Status of one request, by its place in the slice that was submitted. It does not block.
func (b *Batch) Status(request int) (Status, error) {
	const call = "getTransferStatus"
	var status C.struct_transfer_status
	err := b.engine.use(call, func(handle C.transfer_engine_t) error {
		code := C.getTransferStatus(handle, b.id, C.size_t(request), &status)
		if code != 0 && request >= 0 && request < b.requests {
			return &Error{Call: call, Err: ErrClosed}
		}
		return check(call, code)
	})
	return Status(status.status), err
}

// Wait blocks until every request has ended, or until ctx has, whose error it then returns; requests
// go on after that. nil: every byte is in its destination's memory. A [TransferError]: all have
// ended, and which is not complete.
func (b *Batch) Wait(ctx context.Context) error {
	var outcome error
	for request := range b.requests {
		status, err := b.waitFor(ctx, request)
		if err != nil {
			return err
		}
		if status != Completed && outcome == nil {
			outcome = &TransferError{request, status}
		}
	}
	return outcome
}

// Close waits for the requests, at most MC_TRANSFER_TIMEOUT seconds (30 unless set), as the library
// uses local memory until they have ended; Wait says how that was. After it the regions may be
// closed.
func (b *Batch) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return nil
	}
	_ = b.Wait(context.Background())
	err := b.free()
	if err != nil && !isClosed(err) {
		return err // a request is under way, after all: its memory stays registered
	}
	b.closed = true
	for _, region := range b.regions {
		region.letGo()
	}
	return nil
}

// submit starts a batch; notify, if it is not nil, has a name and a message.
func (e *Engine) submit(requests []Request, notify cTexts) (*Batch, error) {
	call := submitCall
	if notify != nil {
		call = submitWithNotifyCall
	}
	entries := make([]C.struct_transfer_request, len(requests))
	for i := range requests {
		var err error
		if entries[i], err = requests[i].toC(call, e); err != nil {
			return nil, err
		}
	}
	batch := &Batch{engine: e, id: C.INVALID_BATCH}
	err := batch.acquire(call, requests)
	if err == nil {
		err = e.use(call, func(handle C.transfer_engine_t) error {
			return batch.start(handle, entries, notify)
		})
	}
	if err != nil {
		_ = batch.Close() // nothing is under way
		return nil, err
	}
	batch.requests = len(requests)
	return batch, nil
}

// acquire notes the regions of requests, each run of equal ones once.
func (b *Batch) acquire(call string, requests []Request) error {
	var last *Region
	for i := range requests {
		region := requests[i].Region
		if region == last {
			continue
		}
		if err := region.acquire(call); err != nil {
			return err
		}
		b.regions = append(b.regions, region)
		last = region
	}
	return nil
}

func (b *Batch) start(handle C.transfer_engine_t, entries []C.struct_transfer_request, notify cTexts) error {
	count := C.size_t(len(entries))
	b.id = C.allocateBatchID(handle, count)
	if b.id == C.INVALID_BATCH {
		return &Error{Call: "allocateBatchID", Code: failed}
	}
	var first *C.struct_transfer_request
	if len(entries) > 0 {
		first = &entries[0]
	}
	if notify == nil {
		return check(submitCall, C.submitTransfer(handle, b.id, first, count))
	}
	return check(submitWithNotifyCall, C.submitTransferWithNotify(handle, b.id, first, count, notify.notification()))
}

func (b *Batch) free() error {
	const call = "freeBatchID"
	if b.id == C.INVALID_BATCH {
		return nil
	}
	return b.engine.use(call, func(handle C.transfer_engine_t) error {
		return check(call, C.freeBatchID(handle, b.id))
	})
}

func (b *Batch) waitFor(ctx context.Context, request int) (Status, error) {
	var pause pause
	for {
		status, err := b.Status(request)
		if err != nil || status.HasEnded() {
			return status, err
		}
		if err := pause.rest(ctx); err != nil {
			return status, err
		}
	}
}

// transfer is one request, to its end or that of ctx.
func (e *Engine) transfer(ctx context.Context, request Request) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	batch, err := e.Submit([]Request{request})
	if err != nil {
		return err
	}
	err = batch.Wait(ctx)
	if err != nil && err == ctx.Err() {
		go batch.Close() // which waits, as the caller does not
		return err
	}
	if closed := batch.Close(); err == nil {
		err = closed
	}
	return err
}

// toC is the request for the library, once it is known to be about memory that e has registered.
func (r *Request) toC(call string, e *Engine) (C.struct_transfer_request, error) {
	var entry C.struct_transfer_request
	if r.Region == nil || r.Region.engine != e {
		return entry, refuse(call, "no region, or one of another engine")
	}
	id, err := r.Segment.idIn(call, e)
	if err != nil {
		return entry, err
	}
	start, err := r.Region.at(call, r.Offset, r.Length)
	if err != nil {
		return entry, err
	}
	entry.opcode = C.int(r.Op)
	entry.source = start
	entry.target_id = id
	entry.target_offset = C.uint64_t(r.Address)
	entry.length = C.uint64_t(r.Length)
	return entry, nil
}

func isClosed(err error) bool { return errors.Is(err, ErrClosed) }
