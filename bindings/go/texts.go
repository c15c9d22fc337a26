// Strings as C has them.

package transferengine

// #include <stdlib.h>
// #include <transfer_engine_c.h>
import "C"

import (
	"strings"
	"unsafe"
)

// cTexts are copies of strings in C's memory.
type cTexts []*C.char

// toC refuses a NUL, which would end a text early.
func toC(call string, texts ...string) (cTexts, error) {
	for _, text := range texts {
		if strings.IndexByte(text, 0) >= 0 {
			return nil, refuse(call, "there is a NUL in a text")
		}
	}
	copies := make(cTexts, len(texts))
	for i, text := range texts {
		copies[i] = C.CString(text)
	}
	return copies, nil
}

func (t cTexts) free() {
	for _, text := range t {
		C.free(unsafe.Pointer(text))
	}
}

// notification has the first two as its name and its message.
func (t cTexts) notification() C.notify_msg_t {
	return C.notify_msg_t{name: t[0], msg: t[1]}
}
