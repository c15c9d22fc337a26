package transferengine_test

import (
	"bytes"
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	te "mooncake/transferengine"
)

const (
	regionBytes = 1 << 16
	patience    = 40 * time.Second // longer than the library's own
)

// pair is an engine with memory, and another one that it has opened.
type pair struct {
	here, there   *te.Engine
	local, remote *te.Region
	segment       *te.Segment
}

func newEngine(t *testing.T) *te.Engine {
	t.Helper()
	engine, err := te.NewEngine("P2PHANDSHAKE", "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { expect(t, engine.Close()) })
	return engine
}

func register(t *testing.T, engine *te.Engine, memory []byte) *te.Region {
	t.Helper()
	region, err := engine.Register(memory, "*")
	expect(t, err)
	t.Cleanup(func() { expect(t, region.Close()) })
	return region
}

func open(t *testing.T, engine, peer *te.Engine) *te.Segment {
	t.Helper()
	name, err := peer.LocalAddress()
	expect(t, err)
	segment, err := engine.OpenSegment(name)
	expect(t, err)
	return segment
}

func newPair(t *testing.T) pair {
	t.Helper()
	here, there := newEngine(t), newEngine(t)
	return pair{here, there, register(t, here, make([]byte, regionBytes)), register(t, there, make([]byte, regionBytes)), open(t, here, there)}
}

// write is a request for the first length bytes.
func (p pair) write(length int) te.Request {
	return te.Request{Op: te.Write, Segment: p.segment, Address: p.remote.Address(), Region: p.local, Length: length}
}

func submit(t *testing.T, engine *te.Engine, requests ...te.Request) *te.Batch {
	t.Helper()
	batch, err := engine.Submit(requests)
	expect(t, err)
	return batch
}

func expect(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// expectRefused is for what the library itself has refused.
func expectRefused(t *testing.T, err error, call string) {
	t.Helper()
	var failure *te.Error
	if !errors.As(err, &failure) || failure.Call != call || failure.Code >= 0 || failure.Err != nil {
		t.Fatalf("%s: %v", call, err)
	}
	if !strings.Contains(err.Error(), "stderr") {
		t.Fatalf("it does not say where the reason is: %v", err)
	}
}

// expectNotCalled is for what the library was not shown.
func expectNotCalled(t *testing.T, err error) {
	t.Helper()
	var failure *te.Error
	if !errors.As(err, &failure) || failure.Code != 0 || failure.Err == nil {
		t.Fatal(err)
	}
}

func pattern(length int) []byte {
	text := make([]byte, length)
	for i := range text {
		text[i] = byte(i * 31 % 251)
	}
	return text
}

func patient(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

func TestBytesGoThereAndComeBack(t *testing.T) {
	p := newPair(t)
	copy(p.local.Bytes(), pattern(1000))
	expect(t, p.here.WriteTo(patient(t), p.segment, p.remote.Address()+7, p.local, 0, 1000))
	if !bytes.Equal(p.remote.Bytes()[7:1007], pattern(1000)) {
		t.Fatal("other bytes at the peer")
	}
	expect(t, p.here.ReadFrom(patient(t), p.segment, p.remote.Address()+7, p.local, 5000, 1000))
	if !bytes.Equal(p.local.Bytes()[5000:6000], pattern(1000)) {
		t.Fatal("other bytes came back")
	}
}

func TestABatchOfBothDirectionsTellsThePeerAfterItsBytes(t *testing.T) {
	p := newPair(t)
	copy(p.local.Bytes(), pattern(64))
	copy(p.remote.Bytes()[4096:], pattern(64))
	batch, err := p.here.SubmitWithNotify([]te.Request{
		p.write(64),
		{Op: te.Read, Segment: p.segment, Address: p.remote.Address() + 4096, Region: p.local, Offset: 100, Length: 64},
		{Op: te.Write, Segment: p.segment, Region: p.local, Offset: regionBytes},
	}, "name", "\xff\x01")
	expect(t, err)
	defer batch.Close()
	expect(t, batch.Wait(patient(t)))
	if status, err := batch.Status(2); err != nil || status != te.Completed {
		t.Fatal(status, err)
	}
	_, err = batch.Status(3)
	expectRefused(t, err, "getTransferStatus")
	_, err = batch.Status(-1)
	expectRefused(t, err, "getTransferStatus")
	if !bytes.Equal(p.remote.Bytes()[:64], pattern(64)) || !bytes.Equal(p.local.Bytes()[100:164], pattern(64)) {
		t.Fatal("other bytes")
	}
	notifies, err := p.there.TakeNotifies()
	if err != nil || len(notifies) != 1 || notifies[0] != (te.Notification{Name: "name", Message: "\xff\x01"}) {
		t.Fatal(notifies, err)
	}
}

func TestAnEngineIsItsOwnPeer(t *testing.T) {
	engine := newEngine(t)
	region := register(t, engine, pattern(100))
	own := open(t, engine, engine)
	expect(t, engine.WriteTo(patient(t), own, region.Address()+50, region, 0, 50))
	if !bytes.Equal(region.Bytes()[50:], pattern(50)) {
		t.Fatal("other bytes")
	}
	expect(t, engine.Notify(own, "to", "myself"))
	if notifies, err := engine.TakeNotifies(); err != nil || len(notifies) != 1 || notifies[0].Message != "myself" {
		t.Fatal(notifies, err)
	}
}

func TestMemoryThatABatchUsesStaysRegistered(t *testing.T) {
	p := newPair(t)
	batch := submit(t, p.here, p.write(8), p.write(16))
	if err := p.local.Close(); !errors.Is(err, te.ErrInUse) {
		t.Fatal(err)
	}
	expect(t, batch.Wait(patient(t)))
	expect(t, batch.Close())
	expect(t, batch.Close())
	_, err := batch.Status(0)
	if !errors.Is(err, te.ErrClosed) {
		t.Fatal(err)
	}
	expect(t, p.local.Close())
	expect(t, p.local.Close())
	_, err = p.here.Submit([]te.Request{p.write(8)})
	if !errors.Is(err, te.ErrClosed) {
		t.Fatal(err)
	}
}

func TestASubmissionThatFailsLeavesNothingInUse(t *testing.T) {
	p := newPair(t)
	nobodys := p.write(8)
	nobodys.Address = 64
	_, err := p.here.Submit([]te.Request{nobodys})
	expectRefused(t, err, "submitTransfer")
	other := register(t, p.here, make([]byte, 64))
	expect(t, other.Close())
	closed := p.write(8)
	closed.Region = other
	_, err = p.here.Submit([]te.Request{p.write(8), closed})
	if !errors.Is(err, te.ErrClosed) {
		t.Fatal(err)
	}
	expect(t, p.local.Close())
}

func TestMemoryThatTheApplicationHasForgottenStaysWhereItIs(t *testing.T) {
	p := newPair(t)
	addresses := make([]uint64, 50)
	for i := range addresses {
		region, err := p.there.Register(make([]byte, 4096), "*") // closed by the engine
		expect(t, err)
		addresses[i] = region.Address()
	}
	copy(p.local.Bytes(), pattern(4096))
	for i, address := range addresses {
		runtime.GC()
		_ = make([]byte, 4096)
		expect(t, p.here.WriteTo(patient(t), p.segment, address, p.local, 0, 4096))
		expect(t, p.here.ReadFrom(patient(t), p.segment, address, p.local, 8192, 4096))
		if !bytes.Equal(p.local.Bytes()[8192:8192+4096], pattern(4096)) {
			t.Fatal(i)
		}
	}
}

func TestMemoryThatIsNotGosOwn(t *testing.T) {
	p := newPair(t)
	mapping, err := syscall.Mmap(-1, 0, 8192, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE|syscall.MAP_ANON)
	expect(t, err)
	region := register(t, p.here, mapping)
	copy(p.remote.Bytes(), pattern(8192))
	expect(t, p.here.ReadFrom(patient(t), p.segment, p.remote.Address(), region, 0, 8192))
	if !bytes.Equal(mapping, pattern(8192)) {
		t.Fatal("other bytes")
	}
	expect(t, region.Close())
	expect(t, syscall.Munmap(mapping))
}

func TestAContextThatEndsFirst(t *testing.T) {
	p := newPair(t)
	const large = 32 << 20
	local, remote := register(t, p.here, pattern(large)), register(t, p.there, make([]byte, large))
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	if err := p.here.WriteTo(ended, p.segment, remote.Address(), local, 0, large); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	batch := submit(t, p.here, te.Request{Op: te.Write, Segment: p.segment, Address: remote.Address(), Region: local, Length: large})
	if err := batch.Wait(ended); err != nil && !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	expect(t, batch.Close()) // waits for the bytes
	if !bytes.Equal(remote.Bytes(), pattern(large)) {
		t.Fatal("other bytes")
	}
	soon, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if err := p.here.ReadFrom(soon, p.segment, remote.Address(), local, 0, large); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal(err)
	}
	for errors.Is(local.Close(), te.ErrInUse) { // until the transfer has ended by itself
		time.Sleep(time.Millisecond)
	}
}

func TestRangesThatAreNotInsideAreRefused(t *testing.T) {
	p := newPair(t)
	const most = int(^uint(0) >> 1)
	for _, each := range [][2]int{{0, regionBytes + 1}, {-1, 2}, {1, -1}, {regionBytes, 1}, {most, most}, {regionBytes + 1, 0}} {
		request := p.write(0)
		request.Offset, request.Length = each[0], each[1]
		_, err := p.here.Submit([]te.Request{request})
		expectNotCalled(t, err)
	}
	request := p.write(8)
	request.Op = 5
	_, err := p.here.Submit([]te.Request{request})
	expectRefused(t, err, "submitTransfer")
}

func TestWhatBelongsToAnotherEngineIsRefused(t *testing.T) {
	p, other := newPair(t), newPair(t)
	for _, change := range []func(*te.Request){
		func(r *te.Request) { r.Region = other.local },
		func(r *te.Request) { r.Region = nil },
		func(r *te.Request) { r.Segment = other.segment },
		func(r *te.Request) { r.Segment = nil },
	} {
		request := p.write(8)
		change(&request)
		_, err := p.here.Submit([]te.Request{request})
		expectNotCalled(t, err)
	}
	expectNotCalled(t, p.here.Notify(other.segment, "a", "b"))
	expectNotCalled(t, p.here.Notify(nil, "a", "b"))
}

func TestTextsWithANulAreRefused(t *testing.T) {
	p := newPair(t)
	_, err := te.NewEngine("P2P\x00HANDSHAKE", "127.0.0.1")
	expectNotCalled(t, err)
	_, err = p.here.OpenSegment("127.0.0.1\x00")
	expectNotCalled(t, err)
	_, err = p.here.Register(make([]byte, 8), "\x00")
	expectNotCalled(t, err)
	_, err = p.here.SubmitWithNotify([]te.Request{p.write(8)}, "a\x00", "b")
	expectNotCalled(t, err)
	expectNotCalled(t, p.here.Notify(p.segment, "a", "b\x00"))
	if notifies, err := p.there.TakeNotifies(); err != nil || len(notifies) != 0 {
		t.Fatal(notifies, err)
	}
}

func TestWhatTheLibraryRefusesHasTheNameOfTheCall(t *testing.T) {
	p := newPair(t)
	_, err := te.NewEngine("gopher://x", "127.0.0.1")
	expectRefused(t, err, "createTransferEngine")
	_, err = p.here.OpenSegment("127.0.0.1:1")
	expectRefused(t, err, "openSegment")
	_, err = p.here.Register(nil, "*")
	expectNotCalled(t, err)
	_, err = p.here.Register(p.local.Bytes()[8:16], "*")
	expectRefused(t, err, "registerLocalMemory")
	var failure *te.Error
	if !errors.As(err, &failure) || failure.Code != -7 {
		t.Fatal(err)
	}
	_, err = p.here.SubmitWithNotify(nil, "a", "b")
	expectRefused(t, err, "submitTransferWithNotify")
	empty := submit(t, p.here)
	expect(t, empty.Wait(patient(t)))
	expect(t, empty.Close())
}

func TestAPeerThatIsGoneIsAnErrorWithinTheLibrarysTime(t *testing.T) {
	p := newPair(t)
	expect(t, p.there.Close())
	err := p.here.WriteTo(patient(t), p.segment, p.remote.Address(), p.local, 0, 8)
	var refused *te.Error
	var broken *te.TransferError
	if !errors.As(err, &refused) && !errors.As(err, &broken) {
		t.Fatal(err)
	}
	if err := p.here.Notify(p.segment, "a", "b"); err == nil {
		t.Fatal("a dead peer was told")
	}
}

func TestNothingWorksAfterTheEngineIsClosed(t *testing.T) {
	p := newPair(t)
	batch := submit(t, p.here, p.write(8))
	expect(t, p.here.Close())
	expect(t, p.here.Close())
	_, submitted := p.here.Submit([]te.Request{p.write(8)})
	_, registered := p.here.Register(make([]byte, 8), "*")
	_, opened := p.here.OpenSegment("127.0.0.1:1")
	_, address := p.here.LocalAddress()
	_, taken := p.here.TakeNotifies()
	for _, err := range []error{
		submitted, registered, opened, address, taken, p.here.Notify(p.segment, "a", "b"), batch.Wait(patient(t)),
	} {
		if !errors.Is(err, te.ErrClosed) {
			t.Fatal(err)
		}
	}
	expect(t, batch.Close())
	expect(t, p.local.Close())
}

func TestAnEngineMayBeClosedWhileOthersUseIt(t *testing.T) {
	p := newPair(t)
	var workers sync.WaitGroup
	for range 4 {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for {
				if err := p.here.WriteTo(context.Background(), p.segment, p.remote.Address(), p.local, 0, 4096); err != nil {
					if !errors.Is(err, te.ErrClosed) {
						t.Error(err)
					}
					return
				}
			}
		}()
	}
	time.Sleep(20 * time.Millisecond)
	expect(t, p.here.Close())
	workers.Wait()
}

func TestManyGoroutinesShareOneEngine(t *testing.T) {
	p := newPair(t)
	copy(p.local.Bytes(), pattern(regionBytes))
	var workers sync.WaitGroup
	for worker := range 4 {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for i := range 100 {
				at := worker*1000 + i*10
				if err := p.here.WriteTo(context.Background(), p.segment, p.remote.Address()+uint64(at), p.local, at, 10); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	workers.Wait()
	if !bytes.Equal(p.remote.Bytes()[:4000], pattern(4000)) {
		t.Fatal("other bytes")
	}
}
