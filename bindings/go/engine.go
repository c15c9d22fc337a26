// Package transferengine is Mooncake's transfer engine for Go: it moves bytes between registered
// memories of processes, of one host or of several. A thin layer over libtransfer_engine.so.
//
// Any goroutine may call anything, any number at once. What has a Close method belongs to whoever
// made it and is closed once; a second Close does nothing. Batches are closed before the regions
// that they use, and regions before their engine, which ends what is left.
//
// The library's own lines go to stderr.
package transferengine

/*
#cgo pkg-config: transfer_engine
#include <stdlib.h>
#include <transfer_engine_c.h>
*/
import "C"

import (
	"sync"
	"unsafe"
)

// Enough for a host name of 253 characters and a port.
const addressBytes = 512

// Engine has its own port, threads and connections; any number in a process.
type Engine struct {
	mu     sync.RWMutex        // shared during calls, alone for the end
	handle C.transfer_engine_t // nil: closed
}

// NewEngine starts an engine. metadataServer is "P2PHANDSHAKE" (then peers call it by
// [Engine.LocalAddress]) or a directory: etcd://, http://, redis://, or host:port for etcd (then
// they call it localName). It returns when the directory has it.
func NewEngine(metadataServer, localName string) (*Engine, error) {
	const call = "createTransferEngine"
	texts, err := toC(call, metadataServer, localName, "")
	if err != nil {
		return nil, err
	}
	defer texts.free()
	handle := C.createTransferEngine(texts[0], texts[1], texts[2], 0, 1) // the last three choose nothing
	if handle == nil {
		return nil, &Error{Call: call, Code: failed}
	}
	return &Engine{handle: handle}, nil
}

// Close ends transfers and registrations, and frees the port. It waits for calls in progress, at
// most MC_TRANSFER_TIMEOUT seconds (30 unless set). An error says that a peer may touch the memory
// of a region still, which is then never freed.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.handle == nil {
		return nil
	}
	ended, err := endRegions(e)
	C.destroyTransferEngine(e.handle)
	e.handle = nil
	for _, region := range ended { // only now do transfers of our own leave it alone, too
		region.release()
	}
	return err
}

// LocalAddress is "host:port", where peers reach this process.
func (e *Engine) LocalAddress() (string, error) {
	const call = "getLocalIpAndPort"
	var text [addressBytes]C.char
	err := e.use(call, func(handle C.transfer_engine_t) error {
		return check(call, C.getLocalIpAndPort(handle, &text[0], addressBytes))
	})
	if err != nil {
		return "", err
	}
	return C.GoString(&text[0]), nil
}

// Segment is a peer, or the engine itself, as [Engine.OpenSegment] found it. It holds nothing, so
// there is nothing to close.
type Segment struct {
	engine *Engine
	id     C.int32_t
}

// OpenSegment finds the peer of that name. It blocks until the peer answers, at most seconds.
func (e *Engine) OpenSegment(name string) (*Segment, error) {
	const call = "openSegment"
	texts, err := toC(call, name)
	if err != nil {
		return nil, err
	}
	defer texts.free()
	segment := &Segment{engine: e}
	err = e.use(call, func(handle C.transfer_engine_t) error {
		segment.id = C.openSegment(handle, texts[0])
		if segment.id < 0 {
			return &Error{Call: call, Code: int(segment.id)}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return segment, nil
}

// Notification is a short message; neither text has a NUL, and the name is UTF-8.
type Notification struct {
	Name, Message string
}

// Notify tells the segment's owner, once. It blocks until that has been delivered, at most
// MC_TRANSFER_TIMEOUT seconds (30 unless set); after an error it may or may not have been.
func (e *Engine) Notify(segment *Segment, name, message string) error {
	const call = "genNotifyInEngine"
	id, err := segment.idIn(call, e)
	if err != nil {
		return err
	}
	texts, err := toC(call, name, message)
	if err != nil {
		return err
	}
	defer texts.free()
	return e.use(call, func(handle C.transfer_engine_t) error {
		return check(call, C.genNotifyInEngine(handle, C.uint64_t(id), texts.notification()))
	})
}

// TakeNotifies returns what has arrived since the last call, in the order of arrival. It does not
// block. The only error is [ErrClosed].
func (e *Engine) TakeNotifies() ([]Notification, error) {
	var all []Notification
	err := e.use("getNotifsFromEngine", func(handle C.transfer_engine_t) error {
		var count C.int
		list := C.getNotifsFromEngine(handle, &count)
		if list == nil {
			return nil
		}
		for _, each := range unsafe.Slice(list, count) {
			all = append(all, Notification{C.GoString(each.name), C.GoString(each.msg)})
		}
		C.freeNotifsMsgBuf(list, count)
		return nil
	})
	return all, err
}

// use calls f, during which the engine is not closed.
func (e *Engine) use(call string, f func(C.transfer_engine_t) error) error {
	e.mu.RLock()
	defer e.mu.RUnlock()
	if e.handle == nil {
		return &Error{Call: call, Err: ErrClosed}
	}
	return f(e.handle)
}

// idIn is the segment's id if e opened it: another engine means something else by it.
func (s *Segment) idIn(call string, e *Engine) (C.int32_t, error) {
	if s == nil || s.engine != e {
		return 0, refuse(call, "no segment, or one of another engine")
	}
	return s.id, nil
}
