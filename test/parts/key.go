package parts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// key names a binary by all that it is made of.
func (r recipe) key(ctx context.Context, root string) (string, error) {
	dir := filepath.Join(root, r.module)
	h := sha256.New()
	toolchain, err := r.toolchain(ctx, dir)
	if err != nil {
		return "", err
	}
	for _, s := range append(append([]string{toolchain, r.pkg, r.binary}, r.flags...), r.env...) {
		fmt.Fprintf(h, "%d:%s\n", len(s), s)
	}
	// WalkDir goes in lexical order, so the hash does not depend on the file system.
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if !d.Type().IsRegular() || strings.HasSuffix(path, "_test.go") || strings.HasSuffix(path, ".md") {
			return nil
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		content := sha256.New()
		if _, err := io.Copy(content, f); err != nil {
			return err
		}
		fmt.Fprintf(h, "%d:%s %x\n", len(rel), filepath.ToSlash(rel), content.Sum(nil))
		return nil
	})
	if err != nil {
		return "", fmt.Errorf("reading sources of %s: %w", r.part, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// toolchain is what the go command would build with.
func (r recipe) toolchain(ctx context.Context, dir string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", "env", "GOVERSION", "GOOS", "GOARCH", "GOFLAGS", "GOEXPERIMENT", "CC", "GOAMD64", "GOARM64")
	cmd.Dir = dir
	cmd.Env = r.environment()
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("asking go for its version: %w", explain(err))
	}
	return string(out), nil
}

func (r recipe) environment() []string {
	return append(os.Environ(), append([]string{"GOWORK=off"}, r.env...)...)
}
