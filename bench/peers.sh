#!/usr/bin/env bash
# Measures backup programs on one tree, in one run: first backup, unchanged backup, restore.
#
#   bench/peers.sh run TREE RESULTS.tsv ROUNDS SETUP...   measures; adds lines to RESULTS.tsv
#   bench/peers.sh report RESULTS.tsv                     medians, and ratios to the best peer, as Markdown
#
# A SETUP is a program and what it is told:
#   chancery-1  one embassy, which is needed        chancery-3  three embassies, two needed
#   restic-auto restic-off restic-max   borg-lz4 borg-zstd1 borg-none   kopia-zstd-fastest kopia-s2 kopia-none
#
# STORE  folder for repositories and embassies, on the disk to be measured        (default /tmp/chancery-bench)
# SWIFT  folder in memory for caches, restored trees and chancery's home folder   (default a folder in /dev/shm)
# CHANCERY  the program; built from this checkout when unset
# PORT   first port of the embassies (default 17401)
#
# Each line: tree setup round phase wall_s cpu_s embassy_cpu_s peak_KiB embassy_peak_KiB stored_bytes
# cpu_s and peak_KiB are those of the command. embassy_cpu_s is what all the embassies' processes spent meanwhile, and
# embassy_peak_KiB the most that one of them held.
set -euo pipefail

die() { printf 'peers: %s\n' "$1" >&2; [ $# -lt 2 ] || printf 'hint: %s\n' "$2" >&2; exit 1; }

# --- measuring -------------------------------------------------------------------------------------------------------

servers=() # process numbers of the embassies
stop_servers() {
  local p
  for p in ${servers+"${servers[@]}"}; do kill "$p" 2>/dev/null || true; done
  for p in ${servers+"${servers[@]}"}; do wait "$p" 2>/dev/null || true; done
  servers=()
}

server_cpu() { # seconds, all embassies together; the fields after the name in brackets are counted from state = 1
  local p sum=0 fields
  for p in ${servers+"${servers[@]}"}; do
    fields=$(sed 's/.*) //' "/proc/$p/stat")
    sum=$((sum + $(awk '{print $12 + $13}' <<<"$fields")))
  done
  awk -v ticks=$sum -v hz="$(getconf CLK_TCK)" 'BEGIN {printf "%.2f", ticks / hz}'
}

server_peak() { # KiB, of the largest embassy
  local p most=0 kib
  for p in ${servers+"${servers[@]}"}; do
    kib=$(awk '$1 == "VmHWM:" {print $2}' "/proc/$p/status")
    [ "$kib" -le "$most" ] || most=$kib
  done
  echo "$most"
}

forget_peaks() { # the kernel starts VmHWM anew on a 5
  local p
  for p in ${servers+"${servers[@]}"}; do echo 5 >"/proc/$p/clear_refs" || true; done
}

phase() { # phase NAME COMMAND...
  local name=$1 before after
  shift
  sync
  forget_peaks
  before=$(server_cpu)
  if ! /usr/bin/time -q -o "$swift/time" -f '%e %U %S %M' "$@" >"$swift/output" 2>&1; then
    tail -n 5 "$swift/output" >&2
    die "$setup: $name failed"
  fi
  after=$(server_cpu)
  awk -v OFS='\t' -v key="$label $setup $round $name" -v served="$(awk "BEGIN {print $after - $before}")" \
    -v peak="$(server_peak)" -v stored="$(stored)" \
    '{split(key, k, " "); print k[1], k[2], k[3], k[4], $1, $2 + $3, served, $4, peak, stored}' "$swift/time" |
    tee -a "$results"
}

stored() { du -sb "$store/repository" | cut -f1; }

# --- the programs: each has prepare, save and bring_back; the restored tree's place goes to $restored ----------------

restic_prepare() {
  export RESTIC_REPOSITORY=$store/repository RESTIC_PASSWORD=for-the-benchmark RESTIC_CACHE_DIR=$swift/cache
  restic init -q
}
restic_save() { phase "$1" restic backup -q --compression "$variant" "$tree"; }
restic_bring_back() {
  restored=$swift/restored$tree
  phase restore restic restore -q latest --target "$swift/restored"
}

borg_prepare() {
  export BORG_REPO=$store/repository BORG_PASSPHRASE=for-the-benchmark BORG_BASE_DIR=$swift/cache
  borg init -e repokey-blake2
}
borg_save() { phase "$1" borg create -C "${variant/zstd1/zstd,1}" "::$1" "$tree"; }
borg_bring_back() {
  restored=$swift/restored$tree
  (cd "$swift/restored" && phase restore borg extract ::unchanged)
}

kopia_do() { kopia --config-file="$swift/cache/config" --log-dir="$swift/cache/log" --no-progress "$@"; }
kopia_prepare() {
  export KOPIA_PASSWORD=for-the-benchmark KOPIA_CHECK_FOR_UPDATES=false
  kopia_do repository create filesystem --path="$store/repository" --cache-directory="$swift/cache/content"
  kopia_do policy set --global --compression="$variant"
}
kopia_phase() { phase "$1" kopia --config-file="$swift/cache/config" --log-dir="$swift/cache/log" --no-progress "${@:2}"; }
kopia_save() { kopia_phase "$1" snapshot create "$tree"; }
kopia_bring_back() {
  restored=$swift/restored/tree
  kopia_phase restore snapshot restore "$tree" "$restored"
}

# One custodian and one reader stand for many: they take no part in what is measured.
chancery_prepare() {
  export CHANCERY_HOME=$swift/cache/home
  local need=$((variant == 1 ? 1 : 2)) names=() hosts=(LU IS PT) reader custodian fingerprint name i
  custodian=$("$chancery" custodian keygen --name custodian --out "$swift/cache/custodian.key" | tail -n 1)
  reader=$("$chancery" custodian keygen --name reader --out "$swift/cache/reader.key" | tail -n 1)
  "$chancery" state init --home "$CHANCERY_HOME" --name Benchmark --code XX --quorum 1 --custodian "custodian=$custodian"
  for ((i = 0; i < variant; i++)); do
    name=embassy$i
    fingerprint=$("$chancery" embassy init --dir "$store/repository/$name" --name "$name" --country "${hosts[i]}" | grep -o 'SHA256:[A-Za-z0-9+/]*' | head -n 1)
    [ -e "$swift/cache/minister" ] || ssh-keygen -q -t ed25519 -N '' -f "$swift/cache/minister"
    "$chancery" agreement draft --home "$CHANCERY_HOME" --with "${hosts[i]}" --host-name Host --name "$name" --embassy-key "$fingerprint" \
      --signatory "minister=$swift/cache/minister.pub" --quota 10000000000 --open-as "as agreed" --out "$swift/cache/$name.agreement"
    "$chancery" agreement sign "$swift/cache/$name.agreement" --home "$CHANCERY_HOME" --key "$CHANCERY_HOME/keys/signer"
    "$chancery" agreement sign "$swift/cache/$name.agreement" --home "$CHANCERY_HOME" --key "$swift/cache/minister"
    "$chancery" embassy admit --dir "$store/repository/$name" --agreement "$swift/cache/$name.agreement" --state "$CHANCERY_HOME/charter.yaml"
    "$chancery" embassy serve --dir "$store/repository/$name" --listen "127.0.0.1:$((port + i))" 2>>"$swift/cache/$name.log" &
    servers+=($!)
    until_listening $((port + i)) "$!"
    "$chancery" embassy accredit --home "$CHANCERY_HOME" --name "$name" --url "https://127.0.0.1:$((port + i))" --key "$fingerprint"
    names+=("$name")
  done
  "$chancery" register add tree --home "$CHANCERY_HOME" --files "$tree" --need $need --reader "$reader" \
    --embassies "$(IFS=, && echo "${names[*]}")"
}
until_listening() { # PORT PROCESS
  local tries
  for ((tries = 0; tries < 100; tries++)); do
    ! (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null || return 0
    kill -0 "$2" 2>/dev/null || break
    sleep 0.1
  done
  cat "$swift"/cache/embassy*.log >&2
  die "no embassy answers on port $1"
}
chancery_save() { phase "$1" "$chancery" backup tree --home "$CHANCERY_HOME"; }
chancery_bring_back() {
  restored=$swift/restored/tree
  phase restore "$chancery" restore tree@latest --home "$CHANCERY_HOME" --identity "$swift/cache/reader.key" --to "$restored"
}

# --- one round of one setup ------------------------------------------------------------------------------------------

measure() {
  local program=${setup%%-*} variant=${setup#*-} restored
  clear_away
  mkdir -p "$store/repository" "$swift/cache" "$swift/restored"
  "${program}_prepare" >"$swift/output" 2>&1 || { cat "$swift/output" >&2; die "$setup: cannot be prepared"; }
  find "$tree" -type f -exec cat {} + >/dev/null # the page cache is warm for every program alike
  "${program}_save" first
  "${program}_save" unchanged
  "${program}_bring_back"
  diff -r --no-dereference "$tree" "$restored" >"$swift/output" || { head -n 5 "$swift/output" >&2; die "$setup: the restored tree differs"; }
  stop_servers
}

clear_away() {
  stop_servers
  rm -rf "$store/repository" "$swift/cache" "$swift/restored"
}

run() {
  [ $# -ge 4 ] || die "a tree, a file for the results, a number of rounds and setups are needed" "bench/peers.sh run TREE RESULTS.tsv 3 chancery-1 restic-auto"
  tree=$(realpath "$1") results=$(realpath "$2") rounds=$3 label=$(basename "$1")
  shift 3
  [ -d "$tree" ] || die "$tree is no folder" "go run bench/dataset.go registry $tree"
  [ -x /usr/bin/time ] || die "GNU time is missing" "apt-get install time"
  [[ $label != *[[:space:]]* ]] || die "the tree's name holds a space"
  store=${STORE:-/tmp/chancery-bench} port=${PORT:-17401}
  mkdir -p "$store"
  store=$(realpath "$store")
  swift=${SWIFT:-$(mktemp -d /dev/shm/chancery-bench.XXXXXX)}
  mkdir -p "$swift"
  trap 'clear_away; rm -rf "$swift/time" "$swift/output"; [ -n "${SWIFT:-}" ] || rm -rf "$swift"' EXIT
  trap 'exit 130' INT TERM
  export HOME=$swift/cache TZ=UTC LC_ALL=C
  local name
  for setup in "$@"; do
    name=${setup%%-*}
    case $setup in
    chancery-[13]) build_chancery ;;
    restic-?* | borg-?*) command -v "$name" >/dev/null || die "$name is not on PATH" "apt-get install ${name/borg/borgbackup}" ;;
    kopia-?*) command -v kopia >/dev/null || die "kopia is not on PATH" "leave $setup out, or put kopia on PATH (Debian has none)" ;;
    *) die "unknown setup $setup" "sed -n 2,12p bench/peers.sh" ;;
    esac
  done
  for ((round = 1; round <= rounds; round++)); do # in turns: a slow minute of the machine hits everyone
    for setup in "$@"; do measure; done
  done
}

build_chancery() {
  chancery=${CHANCERY:-$store/chancery}
  [ -n "${CHANCERY:-}" ] || (cd "$(dirname "${BASH_SOURCE[0]}")/.." && HOME=$caller_home CGO_ENABLED=0 go build -o "$chancery" ./cmd/chancery)
}
caller_home=$HOME

# --- report ----------------------------------------------------------------------------------------------------------

# Medians, and beside each the ratio of the best peer's median to it (more than 1: faster or smaller than every peer).
# CPU counts the embassies' as well, as a peer does the same work in its one process.
report() {
  [ $# = 1 ] && [ -r "$1" ] || die "a file of results is needed" "bench/peers.sh report RESULTS.tsv"
  local column
  for column in 5 6 8 9 10; do
    awk -F'\t' -v OFS='\t' -v c=$column '{print $1, $4, $2, c, (c == 6 ? $6 + $7 : $c)}' "$1"
  done | sort -t$'\t' -k1,4 -k5,5g | awk -F'\t' '
    function close_group() {
      if (n == 0) return
      m = n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
      split(key, k, "\t")
      row = k[1] "\t" k[2] "\t" k[3]
      if (!(row in seen)) { seen[row] = 1; rows[++count] = row }
      median[row, k[4]] = m
      best = k[1] "\t" k[2] "\t" k[4]
      if (k[3] !~ /^chancery-/ && (!(best in peer) || m < peer[best])) peer[best] = m
      n = 0
    }
    function cell(row, c, scale, form,   k, b, m) {
      split(row, k, "\t"); m = median[row, c]; b = k[1] "\t" k[2] "\t" c
      if (k[3] !~ /^chancery-/ || !(b in peer) || m == 0) return sprintf(form, m / scale)
      return sprintf(form " (%.2f×)", m / scale, peer[b] / m)
    }
    { now = $1 "\t" $2 "\t" $3 "\t" $4; if (now != key) { close_group(); key = now } v[++n] = $5 }
    END {
      close_group()
      print "| tree | phase | setup | wall s | CPU s | peak MiB | embassy peak MiB | stored MB |"
      print "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |"
      for (i = 1; i <= count; i++) {
        split(rows[i], k, "\t")
        printf "| %s | %s | %s | %s | %s | %s | %s | %s |\n", k[1], k[2], k[3], cell(rows[i], 5, 1, "%.2f"),
          cell(rows[i], 6, 1, "%.2f"), cell(rows[i], 8, 1024, "%.0f"), sprintf("%.0f", median[rows[i], 9] / 1024),
          cell(rows[i], 10, 1e6, "%.1f")
      }
    }'
}

case ${1:-} in
run) run "${@:2}" ;;
report) report "${@:2}" ;;
*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
