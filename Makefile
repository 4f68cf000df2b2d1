# Sallyport. `make help` lists the targets.
#
# Needs Go, gcc and make. Everything else is built from Go modules or taken from
# Debian's packages; what is built for tests and the quickstart is cached outside
# of the tree, by content (SALLYPORT_CACHE, default the user's cache directory).

SHELL    := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
GO       ?= go
export GOTOOLCHAIN := local
VERSION  := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS  := -s -w -X main.version=$(VERSION)
BINARIES := sallyport-coordinator sallyportctl sallyport-agent sallyport
PLAY     := .play

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 16

.PHONY: build
build: needs ## build the four binaries into bin/
	@echo "building $(BINARIES) into bin/ (about 3 minutes the first time, seconds after)" >&2
	@mkdir -p bin
	@CGO_ENABLED=0 $(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./coordinator/cmd/... ./node-agent/cmd/... ./client/cmd/...

.PHONY: images
images: needs ## pack them as container images into bin/images (IMAGES, ARCH choose), no engine needed
	@SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) \
	  $(GO) -C tools run ./image -root .. -arch $(ARCH) -version $(VERSION) $(IMAGES)
ARCH ?= $(shell $(GO) env GOARCH)

.PHONY: up
up: build ## run it all here: coordinator, Hydra, three clusters, agents, three people logged in
	@$(GO) run ./test/play/cmd/play up --dir $(PLAY) --bin bin

.PHONY: down
down: ## remove what `make up` made
	@$(GO) run ./test/play/cmd/play down --dir $(PLAY)

.PHONY: env
env: ## print the shell environment of a person: eval "$$(make -s env AS=shivam)"
	@$(GO) run ./test/play/cmd/play env --dir $(PLAY) --bin bin --as $(AS)
AS ?= virat

.PHONY: parts
parts: needs ## build the real Kubernetes, Hydra, kubectl and helm that tests run on (7 to 13 minutes, once)
	@$(GO) run ./test/parts/cmd/parts build all

.PHONY: test
test: needs-test parts ## all tests, on real parts, with the race detector
	@$(MAKE) -s check-generated
	@CGO_ENABLED=0 $(GO) -C test/devcluster test -trimpath ./internal/node
	@$(GO) test -race -timeout 30m -p 3 ./test/e2e ./test/parts ./... # the longest first; they mostly wait

.PHONY: test-long
test-long: needs-test parts ## the longer proofs
	@$(GO) test -race -timeout 60m -tags long ./...

.PHONY: bench
bench: parts build ## whole-path load side by side; the table is in bench.json too
	@$(GO) run ./test/bench --bin bin --out bench.json

.PHONY: generate
generate: ## make the Go code of pkg/api anew from its .proto files
	@$(GO) -C tools run ./protogen -root ../pkg/api

.PHONY: check-generated
check-generated: ## say whether generated code is what its sources give
	@$(GO) -C tools run ./protogen -root ../pkg/api -check

.PHONY: lint
lint: ## gofumpt, vet, staticcheck, errcheck, tidy
	@out=$$($(GO) -C tools tool gofumpt -l $(addprefix ../,$(shell git ls-files '*.go' | grep -v '\.pb\.go$$' | grep -v '\.connect\.go$$'))); \
	  if [ -n "$$out" ]; then echo "not formatted (go -C tools tool gofumpt -w):"; echo "$$out"; exit 1; fi
	@$(GO) vet ./...
	@mkdir -p bin && $(GO) -C tools build -o ../bin/ honnef.co/go/tools/cmd/staticcheck github.com/kisielk/errcheck
	@bin/staticcheck ./...
	@bin/errcheck -ignoretests -exclude tools/errcheck.txt ./...
	@$(GO) mod tidy -diff

.PHONY: needs
needs:
	@GO=$(GO) scripts/needs

.PHONY: needs-test
needs-test:
	@GO=$(GO) scripts/needs test
