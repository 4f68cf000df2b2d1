package main

import (
	"archive/tar"
	"bytes"
	"encoding/pem"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/crypto/x509roots/fallback/bundle"
)

// nonroot is the user and group of that name in the distroless images, so that
// volumes and policies made for those fit.
const nonroot = 65532

// node is a file or, with nil content, a directory.
type node struct {
	path  string
	mode  int64
	owner int
	open  func() (io.ReadCloser, error)
	size  int64
}

// base is everything in an image but its program. There is no shell, no libc and
// no package manager, so there is nothing to run but the program.
func base(home string) []node {
	dirs := []node{
		dir("etc/", 0o755, 0), dir("etc/ssl/", 0o755, 0), dir("etc/ssl/certs/", 0o755, 0),
		dir("tmp/", 0o1777, 0), dir("var/", 0o755, 0), dir("var/lib/", 0o755, 0), dir("home/", 0o755, 0),
		dir(home[1:]+"/", 0o700, nonroot),
	}
	return append(dirs,
		file("etc/passwd", fmt.Appendf(nil, "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:%d:%[1]d:nonroot:%s:/sbin/nologin\n", nonroot, home)),
		file("etc/group", fmt.Appendf(nil, "root:x:0:\nnonroot:x:%d:\n", nonroot)),
		// Names in /etc/hosts before those in the DNS, whatever the resolver.
		file("etc/nsswitch.conf", []byte("hosts: files dns\n")),
		// A coordinator behind a public certificate, and upstream OIDC providers.
		// With a private CA the pin is what counts, and these are not looked at.
		file("etc/ssl/certs/ca-certificates.crt", publicRoots()),
	)
}

// publicRoots is Mozilla's list as a Go module holds it: the same bytes on every
// machine. A root that is trusted only in part is left out, since this file
// cannot say in which.
func publicRoots() []byte {
	var out bytes.Buffer
	for root := range bundle.Roots() {
		if root.Constraint == nil {
			// A buffer takes everything.
			_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: root.Certificate})
		}
	}
	return out.Bytes()
}

func dir(path string, mode int64, owner int) node { return node{path: path, mode: mode, owner: owner} }

func file(path string, content []byte) node {
	return node{path: path, mode: 0o644, size: int64(len(content)), open: func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}}
}

// executable is a program that is on disk.
func executable(path, from string) (node, error) {
	info, err := os.Stat(from)
	if err != nil {
		return node{}, err
	}
	return node{path: path, mode: 0o755, size: info.Size(), open: func() (io.ReadCloser, error) { return os.Open(from) }}, nil
}

// writeTar writes nodes as a layer. Everything in it has one date.
func writeTar(w io.Writer, nodes []node, date time.Time) error {
	t := tar.NewWriter(w)
	for _, n := range nodes {
		if err := n.write(t, date); err != nil {
			return fmt.Errorf("writing %s: %w", n.path, err)
		}
	}
	return t.Close()
}

func (n node) write(t *tar.Writer, date time.Time) error {
	h := &tar.Header{Name: n.path, Mode: n.mode, Uid: n.owner, Gid: n.owner, Size: n.size, ModTime: date, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
	if n.open == nil {
		h.Typeflag = tar.TypeDir
	}
	if err := t.WriteHeader(h); err != nil || n.open == nil {
		return err
	}
	from, err := n.open()
	if err != nil {
		return err
	}
	defer from.Close()
	_, err = io.Copy(t, from)
	return err
}
