package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"tailscale.com/derp"
	"tailscale.com/types/key"
)

const (
	frameBytes = 5 + 32 // header and destination key of a DERP frame
	stall      = 20 * time.Millisecond
	smallest   = 32
)

// derpEnd is one client of the derper.
type derpEnd struct {
	key    key.NodePrivate
	client *derp.Client
}

type derpCircuit struct{ in, out int }

// derpFlow is the closed loop: what relay_load does for datagrams, for DERP's packets.
type derpFlow struct {
	ins, outs   []*derpEnd
	circuits    []derpCircuit
	arrived     atomic.Int64
	bytes       atomic.Int64
	wrong       atomic.Int64
	outstanding atomic.Int64
	heard       atomic.Int64
	wake        chan struct{}
	echo        chan struct{}
	filler      []byte
	sequence    uint64
}

func dialDerp(address string) (*derpEnd, error) {
	raw, err := (&net.Dialer{FallbackDelay: -1}).Dial("tcp4", address)
	if err != nil {
		return nil, err
	}
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // it made its certificate itself
	stream := bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn))
	fmt.Fprintf(stream, "GET /derp HTTP/1.1\r\nHost: derp\r\nUpgrade: DERP\r\nConnection: Upgrade\r\n\r\n")
	if err := stream.Flush(); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(stream.Reader, nil)
	if err != nil {
		return nil, err
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return nil, fmt.Errorf("the derper said %s", answer.Status)
	}
	own := key.NewNode()
	client, err := derp.NewClient(own, conn, stream, func(string, ...any) {})
	return &derpEnd{own, client}, err
}

// inNamespace runs act on a thread that is in the network namespace at path.
func inNamespace(path string, act func() error) error {
	runtime.LockOSThread() // never unlocked after a failure: the thread then dies with its goroutine
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer here.Close()
	there, err := os.Open(path)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	done := act()
	if err := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); err != nil {
		return err
	}
	runtime.UnlockOSThread()
	return done
}

func derpLoad(addresses, namespace string) error {
	there, back, _ := strings.Cut(addresses, ",")
	flow := &derpFlow{wake: make(chan struct{}, 1), echo: make(chan struct{}, 16)}
	for i := range 2048 {
		flow.filler = append(flow.filler, byte(i*131+i>>8))
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var c derpCircuit
		if lines.Text() == "go" {
			break
		}
		if _, err := fmt.Sscanf(lines.Text(), "circuit %d %d", &c.in, &c.out); err != nil {
			return err
		}
		flow.circuits = append(flow.circuits, c)
	}
	open := func(to *[]*derpEnd, address string, count int) error {
		for range count {
			made, err := dialDerp(address)
			if err != nil {
				return err
			}
			*to = append(*to, made)
		}
		return nil
	}
	ins, outs := 0, 0
	for _, c := range flow.circuits {
		ins, outs = max(ins, c.in+1), max(outs, c.out+1)
	}
	if err := open(&flow.ins, there, ins); err != nil {
		return err
	}
	if err := inNamespace(namespace, func() error { return open(&flow.outs, back, outs) }); err != nil {
		return err
	}
	for number, end := range flow.outs {
		go flow.receive(end, number, true)
	}
	for number, end := range flow.ins {
		go flow.receive(end, number, false)
	}
	fmt.Printf("{\"ready\": %d}\n", len(flow.circuits))
	for lines.Scan() {
		answer, err := flow.command(lines.Text())
		if err != nil {
			answer = map[string]any{"error": err.Error()}
		}
		text, _ := json.Marshal(answer)
		fmt.Println(string(text))
	}
	return lines.Err()
}

func (f *derpFlow) command(line string) (map[string]any, error) {
	var a, b, c, d, window int
	var seconds float64
	switch {
	case strings.HasPrefix(line, "check "):
		if _, err := fmt.Sscanf(line, "check %d %d", &a, &b); err != nil {
			return nil, err
		}
		return f.check(a, b)
	case strings.HasPrefix(line, "run "):
		if _, err := fmt.Sscanf(line, "run %g %d %d %d %d", &seconds, &b, &c, &d, &window); err != nil {
			return nil, err
		}
		return f.run(seconds, b, c, d, int64(window))
	case strings.HasPrefix(line, "ping "):
		if _, err := fmt.Sscanf(line, "ping %d %d", &a, &b); err != nil {
			return nil, err
		}
		return f.ping(a, b)
	}
	return nil, fmt.Errorf("not a command: %s", line)
}

// packet writes circuit, sequence and filler into room.
func (f *derpFlow) packet(room []byte, circuit int) {
	f.sequence++
	binary.BigEndian.PutUint32(room, uint32(circuit))
	binary.BigEndian.PutUint64(room[4:], f.sequence)
	copy(room[12:], f.filler)
}

func (f *derpFlow) send(circuit int, room []byte, forward bool) error {
	f.packet(room, circuit)
	from, to := f.ins[f.circuits[circuit].in], f.outs[f.circuits[circuit].out]
	if !forward {
		from, to = to, from
	}
	return from.client.Send(to.key.Public(), room)
}

func (f *derpFlow) receive(end *derpEnd, number int, out bool) {
	for {
		message, err := end.client.Recv()
		if err != nil {
			return
		}
		got, ok := message.(derp.ReceivedPacket)
		if !ok {
			continue
		}
		if len(got.Data) < 12 {
			f.wrong.Add(1)
			continue
		}
		circuit := int(binary.BigEndian.Uint32(got.Data))
		right := circuit < len(f.circuits) && string(got.Data[12:]) == string(f.filler[:len(got.Data)-12])
		if right {
			c := f.circuits[circuit]
			right = (out && c.out == number && got.Source == f.ins[c.in].key.Public()) ||
				(!out && c.in == number && got.Source == f.outs[c.out].key.Public())
		}
		if !right {
			f.wrong.Add(1)
			continue
		}
		f.arrived.Add(1)
		f.bytes.Add(int64(len(got.Data)))
		f.outstanding.Add(-1)
		f.heard.Store(time.Now().UnixNano())
		select {
		case f.wake <- struct{}{}:
		default:
		}
		select {
		case f.echo <- struct{}{}:
		default:
		}
	}
}

func (f *derpFlow) await(count int64, within time.Duration) bool {
	end := time.After(within)
	for f.arrived.Load() < count {
		select {
		case <-f.wake:
		case <-end:
			return f.arrived.Load() >= count
		}
	}
	return true
}

func (f *derpFlow) check(each, size int) (map[string]any, error) {
	room := make([]byte, size-frameBytes)
	total := int64(0)
	for _, forward := range []bool{true, false} {
		for number := range f.circuits {
			before := f.arrived.Load()
			for range each {
				if err := f.send(number, room, forward); err != nil {
					return nil, err
				}
			}
			if !f.await(before+int64(each), time.Second) {
				return nil, fmt.Errorf("%d of %d on circuit %d", f.arrived.Load()-before, each, number)
			}
			total += int64(each)
		}
	}
	if wrong := f.wrong.Load(); wrong > 0 {
		return nil, fmt.Errorf("%d packets arrived harmed, or at the wrong end", wrong)
	}
	return map[string]any{"arrived": total}, nil
}

func (f *derpFlow) run(seconds float64, size, least, most int, limit int64) (map[string]any, error) {
	room := make([]byte, size-frameBytes)
	f.arrived.Store(0)
	f.bytes.Store(0)
	f.outstanding.Store(0)
	begun := time.Now()
	f.heard.Store(begun.UnixNano())
	until := begun.Add(time.Duration(seconds * 1e9))
	window, sent, stalls, number := limit, int64(0), 0, 0
	random := uint64(0x2545f4914f6cdd1d)
	grown := begun
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for time.Now().Before(until) {
		random ^= random << 13
		random ^= random >> 7
		random ^= random << 17
		burst := int64(least + int((random>>33)%uint64(most-least+1)))
		burst = min(burst, max(window, 1))
		for f.outstanding.Load()+burst > window {
			select {
			case <-f.wake:
			case now := <-tick.C:
				if now.UnixNano()-f.heard.Load() > int64(stall) {
					stalls++
					window = max(window/2, smallest)
					f.outstanding.Store(0)
					f.heard.Store(now.UnixNano())
					grown = now
				}
			}
		}
		if now := time.Now(); now.Sub(grown) > 100*time.Millisecond {
			grown = now
			window = min(window+window/2, limit)
		}
		f.outstanding.Add(burst)
		for range burst {
			if err := f.send(number, room, true); err != nil {
				return nil, err
			}
			sent++
		}
		number = (number + 1) % len(f.circuits)
	}
	f.await(sent, 100*time.Millisecond)
	took := time.Duration(f.heard.Load() - begun.UnixNano())
	if wrong := f.wrong.Load(); wrong > 0 {
		return nil, fmt.Errorf("%d packets arrived harmed, or at the wrong end", wrong)
	}
	if f.arrived.Load() == 0 {
		return nil, fmt.Errorf("nothing arrived")
	}
	return map[string]any{
		"sent": sent, "arrived": f.arrived.Load(), "bytes": f.bytes.Load(), "opened": f.arrived.Load(),
		"stalls": stalls, "window": window, "seconds": took.Seconds(),
	}, nil
}

func (f *derpFlow) ping(count, size int) (map[string]any, error) {
	room := make([]byte, size-frameBytes)
	times, lost := []int64{}, 0
	for number := range count {
		time.Sleep(time.Duration(5_000+(number*7919)%10_000) * time.Microsecond)
		for len(f.echo) > 0 {
			<-f.echo
		}
		begun := time.Now()
		whole := true
		for _, forward := range []bool{true, false} {
			if err := f.send(0, room, forward); err != nil {
				return nil, err
			}
			select {
			case <-f.echo:
			case <-time.After(time.Second):
				whole = false
			}
		}
		if whole {
			times = append(times, time.Since(begun).Nanoseconds())
		} else {
			lost++
		}
	}
	return map[string]any{"rtt_ns": times, "lost": lost}, nil
}
