# make test          everything that must hold: needs Go, and on Debian as root installs the rest by itself
# make lint          format, vet and static checks
# make race          all tests once more, with the race detector
# make fuzz-seeds    each fuzz target on its seeds
# make bench         the Go benchmarks; bench/README.md has the comparison with other tools
# make build         bin/chancery
# make install-deps  what the tests use besides Go

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory

GO ?= go
GOFUMPT := $(GO) run mvdan.cc/gofumpt@v0.12.0
STATICCHECK := $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
TIMEOUT ?= 25m
LOGS := .test
# What carries or opens the state's data runs a second time on the FIPS 140-3 module.
DATA_PATH := seal shard chunk pack snapshot custody charter ledger index archive embassy

export GOFLAGS := -mod=readonly

.PHONY: test build lint race fips fuzz-seeds bench install-deps clean
.NOTPARALLEL:

test: install-deps lint
	CGO_ENABLED=0 $(GO) build -buildvcs=false ./...
	$(MAKE) race fips

build:
	mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/chancery ./cmd/chancery

lint:
	@echo 'gofumpt, go vet, staticcheck'
	badly=$$($(GOFUMPT) -l .)
	[ -z "$$badly" ] || { echo "not in gofumpt's form (gofumpt -w):"; echo "$$badly"; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...

# $(call run,LOG,GO TEST ARGUMENTS): prints the line of each package, what failed with its output, and the counts.
# A skipped test fails the run: it would be missing without being missed. So does a run without a test.
define run
mkdir -p $(LOGS)
failed=0
$(GO) test -v -timeout $(TIMEOUT) $(2) 2>&1 | tee $(LOGS)/$(1).log | grep --line-buffered -E '^(ok|FAIL|panic:)[[:space:]]' || failed=1
if [ $$failed = 1 ]; then
  echo "--- what failed, out of $(LOGS)/$(1).log:"
  grep -E -- '--- FAIL: ' $(LOGS)/$(1).log || true
  grep -vE '^=== (RUN|PAUSE|CONT|NAME)|^ *--- PASS|^PASS$$|^ok[[:space:]]|no test files' $(LOGS)/$(1).log | tail -n 1000 || true
fi
awk '/--- PASS: / { p++ } /--- FAIL: / { f++ } /--- SKIP: / { s++; print "skipped:", $$0 }
  END { printf "$(1): %d passed, %d failed, %d skipped\n", p, f, s; exit f + s > 0 || p == 0 }' $(LOGS)/$(1).log
exit $$failed
endef

race:
	@export CGO_ENABLED=1
	$(call run,race,-race ./...)

fips:
	@packages=
	for p in $(DATA_PATH); do [ ! -d internal/$$p ] || packages+=" ./internal/$$p"; done
	export GODEBUG=fips140=on
	$(call run,fips,$$packages)

fuzz-seeds:
	@$(call run,fuzz-seeds,-run '^Fuzz' ./...)

bench:
	$(GO) test -run '^$$' -bench . -benchmem -timeout $(TIMEOUT) ./...

# command:package pairs; a file stands for itself where a package has no command
NEEDS := setfattr:attr setfacl:acl strace:strace ssh-keygen:openssh-client git:git make:make gcc:gcc \
  /usr/include/stdio.h:libc6-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates

install-deps:
	@command -v $(GO) >/dev/null || { echo "Go 1.26 or later is needed: https://go.dev/dl" >&2; exit 1; }
	missing=
	for need in $(NEEDS); do
	  what=$${need%%:*}
	  [ -e "$$what" ] || command -v "$$what" >/dev/null || missing+=" $${need#*:}"
	done
	[ -n "$$missing" ] || exit 0
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  apt-get update -qq
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing
	else
	  echo "missing:$$missing" >&2
	  echo "hint: sudo apt-get install$$missing" >&2
	  exit 1
	fi

clean:
	rm -rf bin $(LOGS)
