// Two processes of one host, or of two, exchange bytes.
//
//	transfer                waits for a peer's bytes; prints its name and the address of its memory
//	transfer NAME ADDRESS   writes a greeting there, reads it back, and tells the peer
package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"mooncake/transferengine"
)

const (
	regionBytes = 1 << 20
	greeting    = "hello from Go\x00" // with a NUL, for peers in C
	readBackAt  = 4096
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(arguments []string) error {
	engine, err := transferengine.NewEngine("P2PHANDSHAKE", "127.0.0.1")
	if err != nil {
		return err
	}
	defer engine.Close()
	region, err := engine.Register(make([]byte, regionBytes), "*")
	if err != nil {
		return err
	}
	defer region.Close()
	if len(arguments) != 2 {
		return serve(engine, region)
	}
	address, err := strconv.ParseUint(arguments[1], 10, 64)
	if err != nil {
		return err
	}
	return greet(engine, region, arguments[0], address)
}

func serve(engine *transferengine.Engine, region *transferengine.Region) error {
	name, err := engine.LocalAddress()
	if err != nil {
		return err
	}
	fmt.Println(name, region.Address())
	for {
		notifies, err := engine.TakeNotifies()
		if err != nil {
			return err
		}
		if len(notifies) > 0 {
			fmt.Printf("%s: %s: %s\n", notifies[0].Name, notifies[0].Message, text(region.Bytes()))
			return nil
		}
		time.Sleep(time.Millisecond)
	}
}

func greet(engine *transferengine.Engine, region *transferengine.Region, peer string, address uint64) error {
	segment, err := engine.OpenSegment(peer)
	if err != nil {
		return err
	}
	ctx := context.Background()
	copy(region.Bytes(), greeting)
	if err := engine.WriteTo(ctx, segment, address, region, 0, len(greeting)); err != nil {
		return err
	}
	if err := engine.ReadFrom(ctx, segment, address, region, readBackAt, len(greeting)); err != nil {
		return err
	}
	fmt.Printf("read back: %s\n", text(region.Bytes()[readBackAt:]))
	return engine.Notify(segment, "greeting", "1")
}

// text ends with a NUL.
func text(memory []byte) []byte {
	before, _, _ := bytes.Cut(memory, []byte{0})
	return before
}
