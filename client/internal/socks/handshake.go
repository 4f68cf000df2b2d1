package socks

import (
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
)

// SOCKS version 5 (RFC 1928) with user and password (RFC 1929), as far as kubectl
// speaks it: one method, one command.
const (
	version      = 5
	authVersion  = 1
	methodUser   = 2
	methodNone   = 255
	cmdConnect   = 1
	atypIPv4     = 1
	atypName     = 3
	atypIPv6     = 4
	authAccepted = 0
	authRefused  = 1
)

// reply is how a request ended. kubectl prints it in words.
type reply byte

const (
	succeeded          reply = 0
	failed             reply = 1 // general SOCKS server failure
	notAllowed         reply = 2 // connection not allowed by ruleset
	networkUnreachable reply = 3
	hostUnreachable    reply = 4
	connectionRefused  reply = 5
	badCommand         reply = 7
	badAddress         reply = 8
)

var (
	errGreeting = errors.New("not a SOCKS5 greeting with user and password")
	errPassword = errors.New("wrong user or password")
	errRequest  = errors.New("not a SOCKS5 request")
)

// authenticate reads the greeting and the password and answers both. Until it
// returns nil nothing that the peer asked for has been read.
func authenticate(c io.ReadWriter, want Credentials) error {
	methods, err := readList(c, version)
	if err != nil {
		return err
	}
	if !contains(methods, methodUser) {
		_, _ = c.Write([]byte{version, methodNone}) // it is being hung up on anyway
		return errGreeting
	}
	if _, err := c.Write([]byte{version, methodUser}); err != nil {
		return fmt.Errorf("answering the greeting: %w", err)
	}
	user, err := readList(c, authVersion)
	if err != nil {
		return err
	}
	password, err := readString(c)
	if err != nil {
		return err
	}
	// Digests are of one length, so the comparison tells nothing by its time.
	gotUser, gotPassword := sha256.Sum256(user), sha256.Sum256(password)
	wantUser, wantPassword := sha256.Sum256([]byte(want.User)), sha256.Sum256([]byte(want.Password))
	if subtle.ConstantTimeCompare(gotUser[:], wantUser[:])&subtle.ConstantTimeCompare(gotPassword[:], wantPassword[:]) != 1 {
		_, _ = c.Write([]byte{authVersion, authRefused})
		return errPassword
	}
	if _, err := c.Write([]byte{authVersion, authAccepted}); err != nil {
		return fmt.Errorf("accepting the password: %w", err)
	}
	return nil
}

// request reads what to connect to, as host:port. With an error comes the reply
// to send.
func request(r io.Reader) (string, reply, error) {
	var head [4]byte // version, command, reserved, address type
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return "", failed, fmt.Errorf("reading the request: %w", err)
	}
	if head[0] != version {
		return "", failed, errRequest
	}
	host, err := readHost(r, head[3])
	if err != nil {
		return "", badAddress, err
	}
	var port [2]byte
	if _, err := io.ReadFull(r, port[:]); err != nil {
		return "", failed, fmt.Errorf("reading the request: %w", err)
	}
	if head[1] != cmdConnect {
		return "", badCommand, errRequest
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port[0])<<8|int(port[1]))), succeeded, nil
}

func readHost(r io.Reader, kind byte) (string, error) {
	size := 0
	switch kind {
	case atypName:
		name, err := readString(r)
		return string(name), err
	case atypIPv4:
		size = 4
	case atypIPv6:
		size = 16
	default:
		return "", errRequest
	}
	raw := make([]byte, size)
	if _, err := io.ReadFull(r, raw); err != nil {
		return "", fmt.Errorf("reading the request: %w", err)
	}
	addr, _ := netip.AddrFromSlice(raw) // 4 or 16 bytes always are one
	return addr.String(), nil
}

// answer tells the peer how its request ended. The address that the standard has
// here is of no use to anyone and stays zero.
func answer(w io.Writer, r reply) error {
	_, err := w.Write([]byte{version, byte(r), 0, atypIPv4, 0, 0, 0, 0, 0, 0})
	return err
}

// readList reads a version byte and what readString reads.
func readList(r io.Reader, want byte) ([]byte, error) {
	var v [1]byte
	if _, err := io.ReadFull(r, v[:]); err != nil {
		return nil, fmt.Errorf("reading the greeting: %w", err)
	}
	if v[0] != want {
		return nil, errGreeting
	}
	return readString(r)
}

// readString reads a byte for the length, and as many bytes.
func readString(r io.Reader) ([]byte, error) {
	var n [1]byte
	if _, err := io.ReadFull(r, n[:]); err != nil {
		return nil, fmt.Errorf("reading a length: %w", err)
	}
	s := make([]byte, n[0])
	if _, err := io.ReadFull(r, s); err != nil {
		return nil, fmt.Errorf("reading %d bytes: %w", n[0], err)
	}
	return s, nil
}

func contains(list []byte, b byte) bool {
	for _, v := range list {
		if v == b {
			return true
		}
	}
	return false
}
