// What calls return when they fail.

package transferengine

// #include <transfer_engine_c.h>
import "C"

import (
	"errors"
	"fmt"
)

// What calls return that have no code of their own.
const failed = -1

var (
	// ErrClosed is within an [Error]: the engine, the region or the batch has been closed.
	ErrClosed = errors.New("it has been closed")
	// ErrInUse is within an [Error]: a batch that uses the region has not been closed.
	ErrInUse = errors.New("a batch that uses the region has not been closed")
)

// Error is a call of the library that failed, or that was not made.
type Error struct {
	Call string // the function of transfer_engine_c.h
	Code int    // what it returned: negative, and it says why on stderr; 0: it was not called
	Err  error  // why it was not called, else nil
}

func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("transferengine: %s: %v", e.Call, e.Err)
	}
	return fmt.Sprintf("transferengine: %s failed with %d; the reason is on stderr", e.Call, e.Code)
}

// Unwrap gives Err.
func (e *Error) Unwrap() error { return e.Err }

// TransferError says that all requests of a batch have ended, and which is the first that did not
// move all its bytes. Some may have moved. Local memory is not touched any more.
type TransferError struct {
	Request int // its place in the slice that was submitted
	Status  Status
}

func (e *TransferError) Error() string {
	return fmt.Sprintf("transferengine: request %d of the batch ended as %v", e.Request, e.Status)
}

func check(call string, code C.int) error {
	if code == 0 {
		return nil
	}
	return &Error{Call: call, Code: int(code)}
}

func refuse(call, reason string) error {
	return &Error{Call: call, Err: errors.New(reason)}
}
