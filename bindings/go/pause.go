// How to wait for the library.

package transferengine

import (
	"context"
	"runtime"
	"time"
)

const (
	yields  = 32 // a transfer within a host may be that quick
	restMin = 16 * time.Microsecond
	restMax = time.Millisecond
)

// pause is for waiting where the library has nothing to wait on: ask, and rest longer each time.
type pause struct {
	yields int
	next   time.Duration
}

// rest returns the error of ctx if that has ended.
func (p *pause) rest(ctx context.Context) error {
	if p.yields < yields {
		p.yields++
		runtime.Gosched()
		return ctx.Err()
	}
	p.next = min(max(2*p.next, restMin), restMax)
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(p.next):
		return nil
	}
}
