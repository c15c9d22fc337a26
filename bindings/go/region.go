// Memory that peers read and write.

package transferengine

// #include <transfer_engine_c.h>
import "C"

import (
	"runtime"
	"sync"
	"unsafe"
)

const (
	registerCall   = "registerLocalMemory"
	unregisterCall = "unregisterLocalMemory"
)

// Region is registered memory, which peers read and write until it is closed.
//
// Its memory is pinned: it does not move, and is not collected, for as long as a peer or a transfer
// may touch it, even if the application has lost both the slice and the region.
type Region struct {
	engine *Engine
	memory []byte
	pinner runtime.Pinner

	mu      sync.Mutex // held for a moment, after Engine.mu
	batches int        // that use it and are not closed
	closed  bool
}

// Memory that the library may touch. It is held here because a Pinner that is collected before
// Unpin() panics.
var registered sync.Map // of *Region to nothing

// Register lets peers read and write memory, which may be Go's own (make([]byte, n)) or a mapping
// (syscall.Mmap; unmap it only after Close has returned nil). location says where it is: "cpu:0", or
// "*" to have it found out. Code -7 of an [Error]: some of it is registered already.
//
// Peers write while the application runs: what they have written is to be read after their
// notification, or after whatever else says that they are done.
func (e *Engine) Register(memory []byte, location string) (*Region, error) {
	if len(memory) == 0 {
		return nil, refuse(registerCall, "there is no memory to register")
	}
	texts, err := toC(registerCall, location)
	if err != nil {
		return nil, err
	}
	defer texts.free()
	region := &Region{engine: e, memory: memory}
	err = e.use(registerCall, func(handle C.transfer_engine_t) error {
		region.hold()
		code := C.registerLocalMemory(handle, region.start(), C.size_t(len(memory)), texts[0], 1)
		if code != 0 {
			region.release()
		}
		return check(registerCall, code)
	})
	if err != nil {
		return nil, err
	}
	return region, nil
}

// Bytes is the registered memory itself. Go's own stays valid after Close.
func (r *Region) Bytes() []byte { return r.memory }

// Address is what peers name its first byte by.
func (r *Region) Address() uint64 { return uint64(uintptr(r.start())) }

// Close ends the registration: no peer touches the memory after it has returned nil. It blocks while
// one copies, at most seconds. [ErrInUse]: close the batch first; nothing has changed. An [Error]
// with a code: a peer may touch the memory still, which stays pinned for ever.
func (r *Region) Close() error {
	err := r.engine.use(unregisterCall, func(handle C.transfer_engine_t) error {
		if mine, err := r.beginClose(); !mine {
			return err
		}
		if err := r.unregister(handle); err != nil {
			return err
		}
		r.release()
		return nil
	})
	if isClosed(err) {
		return nil // the engine's Close has ended it
	}
	return err
}

// beginClose says whether the caller, and nobody else, is to unregister it.
func (r *Region) beginClose() (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false, nil
	}
	if r.batches > 0 {
		return false, &Error{Call: unregisterCall, Err: ErrInUse}
	}
	r.closed = true
	return true, nil
}

// beginCloseInUse is the same for an engine that ends, and its batches with it.
func (r *Region) beginCloseInUse() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	mine := !r.closed
	r.closed = true
	return mine
}

// endRegions unregisters all of an engine that is being closed, and returns those that no peer
// touches any more, and the first error. Nobody else uses the engine meanwhile.
func endRegions(e *Engine) (ended []*Region, first error) {
	registered.Range(func(key, _ any) bool {
		region := key.(*Region)
		if region.engine != e || !region.beginCloseInUse() {
			return true
		}
		if err := region.unregister(e.handle); err == nil {
			ended = append(ended, region)
		} else if first == nil {
			first = err
		}
		return true
	})
	return ended, first
}

func (r *Region) unregister(handle C.transfer_engine_t) error {
	return check(unregisterCall, C.unregisterLocalMemory(handle, r.start()))
}

func (r *Region) hold() {
	r.pinner.Pin(unsafe.SliceData(r.memory))
	registered.Store(r, nil)
}

func (r *Region) release() {
	registered.Delete(r)
	r.pinner.Unpin()
}

func (r *Region) start() unsafe.Pointer { return unsafe.Pointer(unsafe.SliceData(r.memory)) }

// at is where length bytes begin that must lie inside.
func (r *Region) at(call string, offset, length int) (unsafe.Pointer, error) {
	if offset < 0 || length < 0 || offset > len(r.memory) || length > len(r.memory)-offset {
		return nil, refuse(call, "a range that is not inside its region")
	}
	if length == 0 {
		return r.start(), nil // a pointer past the end would be another object's
	}
	return unsafe.Pointer(&r.memory[offset]), nil
}

// acquire keeps it from being closed until as many calls of letGo.
func (r *Region) acquire(call string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return &Error{Call: call, Err: ErrClosed}
	}
	r.batches++
	return nil
}

func (r *Region) letGo() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.batches--
}
