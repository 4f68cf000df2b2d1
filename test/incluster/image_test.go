package incluster

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// image is an archive of tools/image, as a container engine understands it.
type image struct {
	// name is what containerd knows it by.
	name   string
	config struct {
		User, WorkingDir string
		Env, Entrypoint  []string
		Cmd              []string
	}
}

type descriptor struct {
	Digest      string            `json:"digest"`
	Annotations map[string]string `json:"annotations"`
}

// unpack loads an archive by the OCI layout in it, and makes the root directory
// of a container of it. Every digest is checked on the way.
func unpack(archive, rootfs string) (*image, error) {
	files, err := contents(archive)
	if err != nil {
		return nil, err
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(files["index.json"], &index); err != nil || len(index.Manifests) != 1 {
		return nil, fmt.Errorf("reading index.json (%d images): %w", len(index.Manifests), err)
	}
	img := &image{name: index.Manifests[0].Annotations["io.containerd.image.name"]}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	if err := files.decode(index.Manifests[0], &manifest); err != nil {
		return nil, err
	}
	var config struct {
		Config json.RawMessage
		RootFS struct {
			DiffIDs []string `json:"diff_ids"`
		}
	}
	if err := files.decode(manifest.Config, &config); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(config.Config, &img.config); err != nil {
		return nil, err
	}
	if len(config.RootFS.DiffIDs) != len(manifest.Layers) {
		return nil, errors.New("the image has layers that its configuration does not know")
	}
	if err := os.Mkdir(rootfs, 0o755); err != nil {
		return nil, err
	}
	for i, l := range manifest.Layers {
		raw, err := files.blob(l)
		if err != nil {
			return nil, err
		}
		if err := unpackLayer(raw, config.RootFS.DiffIDs[i], rootfs); err != nil {
			return nil, fmt.Errorf("unpacking layer %s: %w", l.Digest, err)
		}
	}
	return img, files.docker(img.name, manifest.Config)
}

type archiveFiles map[string][]byte

func contents(archive string) (archiveFiles, error) {
	f, err := os.Open(archive)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	files := archiveFiles{}
	for t := tar.NewReader(f); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		}
		if err != nil {
			return nil, err
		}
		if files[h.Name], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
}

func (a archiveFiles) blob(d descriptor) ([]byte, error) {
	raw, ok := a["blobs/"+strings.ReplaceAll(d.Digest, ":", "/")]
	if !ok || digest(raw) != d.Digest {
		return nil, fmt.Errorf("the archive does not hold %s", d.Digest)
	}
	return raw, nil
}

func (a archiveFiles) decode(d descriptor, into any) error {
	raw, err := a.blob(d)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, into)
}

// docker checks that the archive says the same to `docker load`.
func (a archiveFiles) docker(name string, config descriptor) error {
	var saved []struct {
		Config   string
		RepoTags []string
	}
	if err := json.Unmarshal(a["manifest.json"], &saved); err != nil {
		return err
	}
	if len(saved) != 1 || len(saved[0].RepoTags) != 1 || normal(saved[0].RepoTags[0]) != name ||
		saved[0].Config != "blobs/"+strings.ReplaceAll(config.Digest, ":", "/") {
		return fmt.Errorf("manifest.json says %+v of an image called %s", saved, name)
	}
	return nil
}

// normal is an image's full name, as container runtimes complete it.
func normal(name string) string {
	if first, _, ok := strings.Cut(name, "/"); !ok {
		name = "docker.io/library/" + name
	} else if !strings.ContainsAny(first, ".:") && first != "localhost" {
		name = "docker.io/" + name
	}
	return name
}

func unpackLayer(raw []byte, diffID, rootfs string) error {
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return err
	}
	sum := sha256.New()
	whole := io.TeeReader(z, sum)
	t := tar.NewReader(whole)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		if err := unpackEntry(h, t, filepath.Join(rootfs, filepath.Clean("/"+h.Name))); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
	if _, err := io.Copy(io.Discard, whole); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != diffID {
		return fmt.Errorf("it is %s, not %s", got, diffID)
	}
	return nil
}

func unpackEntry(h *tar.Header, content io.Reader, path string) error {
	switch h.Typeflag {
	case tar.TypeDir:
		if err := os.Mkdir(path, 0o755); err != nil {
			return err
		}
	case tar.TypeReg:
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	default:
		return fmt.Errorf("unexpected kind %q", h.Typeflag)
	}
	if err := os.Chown(path, h.Uid, h.Gid); err != nil {
		return err
	}
	return os.Chmod(path, h.FileInfo().Mode())
}

func digest(raw []byte) string {
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}
