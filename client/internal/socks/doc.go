// Package socks is the way from kubectl into the overlay: a SOCKS5 listener on
// 127.0.0.1, for one person.
//
// Loopback is shared by everyone on a machine, so the listener asks for a user
// and a password of 256 random bits, made per installation and kept at 0600 here
// and in the person's kubeconfig. It dials names of the overlay and
// nothing else, so it is no way around a firewall into the local network, and it
// knows CONNECT over TCP alone. The port stays the same over restarts, so that
// kubeconfig stays right; should someone else hold it, another port is taken with
// a new password, since whoever listens there now may have been told the old one.
// What a stolen password gives is a TCP connection to an agent, which still asks
// for the session's certificate.
package socks
