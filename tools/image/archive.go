package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

const source = "https://github.com/sallyport-mesh/sallyport"

// image is nothing, the base, and the program; two layers, so that the base is
// stored once.
func (b build) image(p program, binary string) (v1.Image, error) {
	entrypoint, err := executable(p.name, binary)
	if err != nil {
		return nil, err
	}
	img := mutate.MediaType(empty.Image, types.OCIManifestSchema1)
	img = mutate.ConfigMediaType(img, types.OCIConfigJSON)
	for _, l := range []struct {
		by    string
		nodes []node
	}{{"base", base(p.home)}, {p.name, []node{entrypoint}}} {
		layer, err := b.layer(l.nodes)
		if err != nil {
			return nil, fmt.Errorf("making layer %s: %w", l.by, err)
		}
		img, err = mutate.Append(img, mutate.Addendum{
			Layer: layer, MediaType: types.OCILayer,
			History: v1.History{Created: v1.Time{Time: b.created}, CreatedBy: "tools/image: " + l.by},
		})
		if err != nil {
			return nil, err
		}
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", b.arch, v1.Time{Time: b.created}
	config.Config = v1.Config{
		Entrypoint: []string{"/" + p.name},
		User:       strconv.Itoa(nonroot) + ":" + strconv.Itoa(nonroot),
		WorkingDir: "/",
		Env:        []string{"HOME=" + p.home},
		Labels: map[string]string{
			"org.opencontainers.image.title":       p.name,
			"org.opencontainers.image.description": p.what,
			"org.opencontainers.image.version":     b.version,
			"org.opencontainers.image.source":      source,
		},
	}
	return mutate.ConfigFile(img, config)
}

func (b build) layer(nodes []node) (v1.Layer, error) {
	return tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() { w.CloseWithError(writeTar(w, nodes, b.created)) }()
		return r, nil
	}, tarball.WithMediaType(types.OCILayer), tarball.WithCompressionLevel(gzip.BestSpeed), tarball.WithCompressedCaching)
}

// write writes the archive, reads it back as an engine would, and answers with
// the image's digest.
func (b build) write(img v1.Image, p program, path string) (digest v1.Hash, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return digest, err
	}
	err = b.writeArchive(f, img, p)
	if err = errors.Join(err, f.Close()); err != nil {
		return digest, fmt.Errorf("writing archive: %w", err)
	}
	back, err := tarball.ImageFromPath(path, nil)
	if err != nil {
		return digest, fmt.Errorf("reading the archive back: %w", err)
	}
	if err := validate.Image(back); err != nil {
		return digest, fmt.Errorf("reading the archive back: %w", err)
	}
	return img.Digest()
}

func (b build) writeArchive(w io.Writer, img v1.Image, p program) error {
	t := tar.NewWriter(w)
	add := func(name string, content []byte) error { return file(name, content).write(t, b.created) }
	blob := func(h v1.Hash, content []byte) error { return add(blobPath(h), content) }

	// 1. What the image is made of, each by its digest.
	saved := struct {
		Config   string
		RepoTags []string
		Layers   []string
	}{RepoTags: []string{tag(p)}}
	layers, err := img.Layers()
	if err != nil {
		return err
	}
	for _, l := range layers {
		h, content, err := compressed(l)
		if err != nil {
			return err
		}
		if err := blob(h, content); err != nil {
			return err
		}
		saved.Layers = append(saved.Layers, blobPath(h))
	}
	configName, err := img.ConfigName()
	if err != nil {
		return err
	}
	config, err := img.RawConfigFile()
	if err != nil {
		return err
	}
	saved.Config = blobPath(configName)
	digest, err := img.Digest()
	if err != nil {
		return err
	}
	manifest, err := img.RawManifest()
	if err != nil {
		return err
	}
	if err := errors.Join(blob(configName, config), blob(digest, manifest)); err != nil {
		return err
	}

	// 2. The way in for OCI's tools, and for docker's.
	index, err := b.index(img, p)
	if err != nil {
		return err
	}
	legacy, err := json.Marshal([]any{saved})
	if err != nil {
		return err
	}
	return errors.Join(
		add("oci-layout", []byte(`{"imageLayoutVersion":"1.0.0"}`)),
		add("index.json", index),
		add("manifest.json", legacy),
		t.Close(),
	)
}

// index names the one image, as containerd (the first annotation) and OCI's
// tools (the second) look for it.
func (b build) index(img v1.Image, p program) ([]byte, error) {
	return mutate.IndexMediaType(mutate.AppendManifests(empty.Index, mutate.IndexAddendum{
		Add: img,
		Descriptor: v1.Descriptor{
			Platform: &v1.Platform{OS: "linux", Architecture: b.arch},
			Annotations: map[string]string{
				"io.containerd.image.name":          "docker.io/library/" + tag(p),
				"org.opencontainers.image.ref.name": "latest",
			},
		},
	}), types.OCIImageIndex).RawManifest()
}

func compressed(l v1.Layer) (v1.Hash, []byte, error) {
	h, err := l.Digest()
	if err != nil {
		return h, nil, err
	}
	r, err := l.Compressed()
	if err != nil {
		return h, nil, err
	}
	defer r.Close()
	var content bytes.Buffer
	_, err = io.Copy(&content, r)
	return h, content.Bytes(), err
}

func blobPath(h v1.Hash) string { return "blobs/" + h.Algorithm + "/" + h.Hex }
