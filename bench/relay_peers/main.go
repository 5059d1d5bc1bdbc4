// What bench/relay.py needs of Tailscale besides its derper: a peer relay without a tailnet around
// it, the bind handshake of its ends, and a load generator that speaks DERP.
//
//	relay_peers serve PORT ADDRESS      a peer relay (net/udprelay), as tailscaled runs it
//	relay_peers bind in|out RELAY PORT GENERATION SERVER_KEY   binds the ends from PORT on
//	relay_peers derp ADDRESS OUT_NAMESPACE       load through a derper
//
// Both `serve` and `bind` read "circuit IN OUT" lines; `serve` answers each with its VNI, which
// `bind` takes as a third word.  The ends' keys follow from their names, so that nobody has to tell.
package main

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"log"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"

	"go4.org/mem"
	"tailscale.com/disco"
	"tailscale.com/net/packet"
	"tailscale.com/net/udprelay"
	"tailscale.com/types/key"
	"tailscale.com/types/views"
	"tailscale.com/util/usermetric"
)

func main() {
	arguments := os.Args[1:]
	var err error
	switch {
	case len(arguments) == 3 && arguments[0] == "serve":
		err = serve(arguments[1], arguments[2])
	case len(arguments) == 6 && arguments[0] == "bind":
		err = bind(arguments[1], arguments[2], arguments[3], arguments[4], arguments[5])
	case len(arguments) == 3 && arguments[0] == "derp":
		err = derpLoad(arguments[1], arguments[2])
	default:
		err = fmt.Errorf("usage: relay_peers serve | bind | derp; see main.go")
	}
	if err != nil {
		log.Fatal(err)
	}
}

// end returns the disco key of the end with this name and number.
func end(side string, number int) key.DiscoPrivate {
	seed := sha256.Sum256(fmt.Appendf(nil, "%s %d", side, number))
	return key.DiscoPrivateFromRaw32(mem.B(seed[:]))
}

func serve(port, address string) error {
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return err
	}
	server, err := udprelay.NewServer(log.Printf, uint16(number), true, new(usermetric.Registry), nil)
	if err != nil {
		return err
	}
	defer server.Close()
	at, err := netip.ParseAddrPort(net.JoinHostPort(address, port))
	if err != nil {
		return err
	}
	server.SetStaticAddrPorts(views.SliceOf([]netip.AddrPort{at}))
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var in, out int
		if _, err := fmt.Sscanf(lines.Text(), "circuit %d %d", &in, &out); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		made, err := server.AllocateEndpoint(end("in", in).Public(), end("out", out).Public())
		if err != nil {
			return err
		}
		text, _ := made.ServerDisco.MarshalText()
		fmt.Printf("vni %d %s\n", made.VNI, text)
	}
	return lines.Err()
}

// bind proves to the relay, for every circuit, that the end owns its address.
func bind(side, relay, firstPort, generation, serverKey string) error {
	first, err := strconv.Atoi(firstPort)
	if err != nil {
		return err
	}
	number, err := strconv.ParseUint(generation, 10, 32)
	if err != nil {
		return err
	}
	var server key.DiscoPublic
	if err := server.UnmarshalText([]byte(serverKey)); err != nil {
		return err
	}
	to, err := net.ResolveUDPAddr("udp4", relay)
	if err != nil {
		return err
	}
	sockets := map[int]*net.UDPConn{}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var in, out int
		var vni uint32
		if _, err := fmt.Sscanf(lines.Text(), "circuit %d %d %d", &in, &out, &vni); err != nil {
			return fmt.Errorf("%q: %w", lines.Text(), err)
		}
		mine, far := in, end("out", out)
		if side == "out" {
			mine, far = out, end("in", in)
		}
		socket := sockets[mine]
		if socket == nil {
			socket, err = net.DialUDP("udp4", &net.UDPAddr{Port: first + mine}, to)
			if err != nil {
				return err
			}
			sockets[mine] = socket
		}
		common := disco.BindUDPRelayEndpointCommon{
			VNI: vni, Generation: uint32(number), RemoteKey: far.Public(),
		}
		if err := handshake(socket, end(side, mine), server, common); err != nil {
			return fmt.Errorf("binding %s end %d to VNI %d: %w", side, mine, vni, err)
		}
	}
	return lines.Err()
}

func handshake(
	socket *net.UDPConn, own key.DiscoPrivate, server key.DiscoPublic,
	common disco.BindUDPRelayEndpointCommon,
) error {
	shared := own.Shared(server)
	header := packet.GeneveHeader{Control: true, Protocol: packet.GeneveProtocolDisco}
	header.VNI.Set(common.VNI)
	send := func(message disco.Message) error {
		out := make([]byte, packet.GeneveFixedHeaderLength, 512)
		if err := header.Encode(out); err != nil {
			return err
		}
		out = append(out, disco.Magic...)
		out = own.Public().AppendTo(out)
		out = append(out, shared.Seal(message.AppendMarshal(nil))...)
		_, err := socket.Write(out)
		return err
	}
	buf := make([]byte, 2048)
	for range 5 {
		if err := send(&disco.BindUDPRelayEndpoint{BindUDPRelayEndpointCommon: common}); err != nil {
			return err
		}
		socket.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		for {
			n, err := socket.Read(buf)
			if err != nil {
				break
			}
			const lead = packet.GeneveFixedHeaderLength + len(disco.Magic) + key.DiscoPublicRawLen
			if n < lead || !bytes.HasPrefix(buf[packet.GeneveFixedHeaderLength:], []byte(disco.Magic)) {
				continue
			}
			plain, ok := shared.Open(buf[lead:n])
			if !ok {
				continue
			}
			message, err := disco.Parse(plain)
			if err != nil {
				continue
			}
			if challenge, ok := message.(*disco.BindUDPRelayEndpointChallenge); ok && challenge.VNI == common.VNI {
				common.Challenge = challenge.Challenge
				return send(&disco.BindUDPRelayEndpointAnswer{BindUDPRelayEndpointCommon: common})
			}
		}
	}
	return fmt.Errorf("the relay did not answer")
}
