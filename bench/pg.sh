#!/usr/bin/env bash
# Measures programs that protect a PostgreSQL cluster, on one database, in one run.
#
#   bench/pg.sh run RESULTS.tsv SCALE ROUNDS SETUP...   measures; adds lines to RESULTS.tsv
#   bench/pg.sh report RESULTS.tsv                      medians, as Markdown
#
# A SETUP is a program and what it is told:
#   chancery-1 chancery-3                   embassies; with -all behind it a commit waits for all of them, not for as many as are needed
#   pgbackrest-zst pgbackrest-lz4           aes-256-cbc; with -async behind it the log is archived by a process of its own, several
#                                           segments at once
#   barman-none barman-lz4 barman-zst       seals nothing; pg_basebackup, and the log is streamed by pg_receivewal; with -sync behind it
#                                           as a synchronous standby, which keeps each change at once (no commit waits for it)
#   barman-rsync                            seals and compresses nothing; two rsync, files that did not change are linked to those
#                                           of the backup before, and archive_command copies the log
#   pg_basebackup-none                      seals and compresses nothing
# The database is pgbench's at SCALE, with one more table of hexadecimal text.
#
# PHASES  any of: full second restore archive lag sync                   (default all; sync is chancery's alone)
# STORE   folder for everything, on the disk to be measured              (default /tmp/chancery-pg)
# SEGS    segments of log in the backlog                                 (default 48)
# LAG     seconds of steady load, 1,500 transactions a second            (default 25)
# PGBIN   programs of the server                                         (default /usr/lib/postgresql/15/bin)
# CHANCERY  the program; built from this checkout when unset             PORT  first port of the embassies (default 17451)
# NEEDS: root, PostgreSQL 15 and pgbench in Debian's place, GNU time; pgBackRest, Barman with lz4, zstd and rsync, when they are asked for.
#
# Lines: setup round full|second|restore wall_s cpu_s others_cpu_s peak_KiB stored_bytes   (others: embassies or the server)
#        setup round archive segments/s cpu_s_per_segment [peak_KiB of chancery pg stream]
#        setup round lag median_s p99_s WAL_MiB/s
#        setup round sync|local clients commits/s mean_ms   (sync: each commit waits until the embassies hold it)
set -euo pipefail

die() { printf 'pg: %s\n' "$1" >&2; exit 1; }
bin=${PGBIN:-/usr/lib/postgresql/15/bin}
as() { runuser -u postgres -- env PATH="$bin:$PATH" "$@"; }
# Debian's psql is a program in Perl that looks for this one: started every 50 ms it took a quarter of two cores.
psql() { /usr/lib/postgresql/15/bin/psql "$@"; }
q() { psql -qAtX -h "$store" -p 5499 -U postgres postgres -c "$1"; }

servers=()
stop_servers() {
  local p
  for p in ${servers+"${servers[@]}"}; do kill "$p" 2>/dev/null || true; done
  for p in ${servers+"${servers[@]}"}; do wait "$p" 2>/dev/null || true; done
  servers=()
}
ticks() { awk '{sub(/.*\) /, ""); print $12 + $13 + $14 + $15}' "/proc/$1/stat" 2>/dev/null || echo 0; }
others_cpu() { # seconds that the embassies, the database server and what it runs spent, with those of its processes that have ended
  local p sum=0 server
  server=$(head -n 1 "$store/data/postmaster.pid")
  for p in $({ printf '%s\n' ${servers+"${servers[@]}"}; pgrep -P "$server"; pgrep -u postgres -f "$store"; } | sort -u); do
    sum=$((sum + $(ticks "$p")))
  done
  awk -v t=$sum -v hz="$(getconf CLK_TCK)" 'BEGIN {printf "%.2f", t / hz}'
}
stored() { du -sb "$store/repository" | cut -f1; }

phase() { # phase NAME COMMAND...
  local name=$1 before after
  shift
  sync
  before=$(others_cpu)
  /usr/bin/time -q -o "$store/time" -f '%e %U %S %M' "$@" >"$store/output" 2>&1 || { tail -n 5 "$store/output" >&2; die "$setup: $name failed"; }
  after=$(others_cpu)
  awk -v OFS='\t' -v s="$setup" -v r="$round" -v n="$name" -v o="$(awk "BEGIN {print $after - $before}")" -v b="$(stored)" \
    '{print s, r, n, $1, $2 + $3, o, $4, b}' "$store/time" | tee -a "$results"
}

# --- the database ----------------------------------------------------------------------------------------------------

make_database() {
  mkdir -p "$store" && chown postgres "$store"
  if [ ! -d "$store/data" ]; then
    as initdb -D "$store/data" --data-checksums -U postgres -A trust --no-sync >/dev/null
    cat >>"$store/data/postgresql.conf" <<C
port = 5499
listen_addresses = ''
unix_socket_directories = '$store'
shared_buffers = 512MB
max_wal_size = 8GB
checkpoint_timeout = 30min
archive_mode = on
archive_command = ''
C
    [ "$(cut -d. -f1 "$store/data/PG_VERSION")" -lt 17 ] || echo 'summarize_wal = on' >>"$store/data/postgresql.conf"
  fi
  as pg_ctl -D "$store/data" -w -l "$store/server.log" start >/dev/null
  if [ "$(q "select count(*) from pg_class where relname = 'doc'")" = 0 ]; then
    as pgbench -h "$store" -p 5499 -q -i -s "$scale" postgres >"$store/pgbench.log" 2>&1
    q "create table doc as select i id, now() at, md5(i::text) || md5((i * 3)::text) || md5((i * 7)::text) || md5((i * 11)::text) body
      from generate_series(1, $scale * 40000) i"
  fi
  q checkpoint
}
archive_with() { q "alter system set archive_command = '$1'"; q 'select pg_reload_conf()' >/dev/null; }
load() { as pgbench -h "$store" -p 5499 -n -c 4 -j 2 "$@" postgres >/dev/null 2>&1; }
change_some() { q "update pgbench_accounts set abalance = abalance + 1 where aid % 5000 < 50"; q checkpoint; } # one in a hundred, in runs
ready() { ls "$store/data/pg_wal/archive_status" | grep -c ready || true; }

# --- the programs ----------------------------------------------------------------------------------------------------

pgbackrest_prepare() {
  mkdir -p "$store"/{repository,log,lock,spool}
  cat >"$store/pgbackrest.conf" <<C
[global]
repo1-path=$store/repository
repo1-cipher-type=aes-256-cbc
repo1-cipher-pass=for-the-benchmark
repo1-retention-full=9
compress-type=${variant%-async}
process-max=2
start-fast=y
lock-path=$store/lock
log-path=$store/log
log-level-console=warn
[bench]
pg1-path=$store/data
pg1-port=5499
pg1-socket-path=$store
C
  [[ $variant != *-async ]] || sed -i "s|^start-fast=y|&\narchive-async=y\nspool-path=$store/spool|" "$store/pgbackrest.conf"
  chown -R postgres "$store"/{repository,log,lock,spool,pgbackrest.conf}
  as pgbackrest --config="$store/pgbackrest.conf" --stanza=bench stanza-create
  archive_with "pgbackrest --config=$store/pgbackrest.conf --stanza=bench archive-push %p"
}
pgbackrest_save() { phase "$1" runuser -u postgres -- pgbackrest --config="$store/pgbackrest.conf" --stanza=bench --type=full backup; }
pgbackrest_bring_back() {
  mkdir -p "$store/restored" && chown postgres "$store/restored" && chmod 700 "$store/restored"
  phase restore runuser -u postgres -- pgbackrest --config="$store/pgbackrest.conf" --stanza=bench --pg1-path="$store/restored" --type=immediate --archive-mode=off restore
}

pg_basebackup_prepare() { mkdir -p "$store"/{repository,wal}; chown postgres "$store"/{repository,wal}; archive_with "cp %p $store/wal/%f"; }
pg_basebackup_save() {
  rm -rf "$store/repository/base"
  phase "$1" runuser -u postgres -- "$bin/pg_basebackup" -h "$store" -p 5499 -D "$store/repository/base" --checkpoint=fast
}
pg_basebackup_bring_back() { phase restore cp -a "$store/repository/base" "$store/restored"; }

barman_prepare() { # all of it runs as the server's user on its machine, as local-rsync demands
  local packing=${variant%-sync}
  mkdir -p "$store"/{repository,log,lock,spool}
  cat >"$store/barman.conf" <<C
[barman]
barman_user=postgres
barman_home=$store/repository
barman_lock_directory=$store/lock
log_file=$store/log/barman
log_level=WARNING
[bench]
description=bench
conninfo=host=$store port=5499 user=postgres dbname=postgres
path_prefix=$bin
immediate_checkpoint=true
parallel_jobs=2
recovery_staging_path=$store/spool
C
  if [ "$packing" = rsync ]; then
    printf '%s\n' backup_method=local-rsync reuse_backup=link backup_options=concurrent_backup archiver=on
  else
    printf '%s\n' backup_method=postgres streaming_archiver=on slot_name=barman create_slot=auto
  fi >>"$store/barman.conf"
  case $packing in # of the log Barman itself makes only gzip and bzip2
  lz4) printf '%s\n' backup_compression=lz4 compression=custom 'custom_compression_filter=lz4 -qc' 'custom_decompression_filter=lz4 -qdc' custom_compression_magic=0x04224d18 ;;
  zst) printf '%s\n' backup_compression=zstd backup_compression_workers=2 compression=custom 'custom_compression_filter=zstd -qc' 'custom_decompression_filter=zstd -qdc' custom_compression_magic=0x28b52ffd ;;
  esac >>"$store/barman.conf"
  chown -R postgres "$store"/{repository,log,lock,spool,barman.conf}
  if [[ $variant == *-sync ]]; then
    q "alter system set synchronous_commit = 'local'"
    q "alter system set synchronous_standby_names = 'barman_receive_wal'"
    q 'select pg_reload_conf()' >/dev/null
  fi
  barman=(runuser -u postgres -- barman -c "$store/barman.conf" -q)
  barman_take_log
  while [ -n "$receiver" ] && [ "$(q 'select count(*) from pg_replication_slots where active')" = 0 ]; do
    kill -0 "$receiver" 2>/dev/null || { cat "$store/stream.log"; return 1; }
    sleep 0.1
  done
  "${barman[@]}" switch-wal --force --archive bench # it makes no backup before it has some log
}
barman_take_log() {
  if [ "$variant" = rsync ]; then
    mkdir -p "$store/repository/bench/incoming" && chown -R postgres "$store/repository"
    archive_with "rsync -a --fsync %p $store/repository/bench/incoming/%f"
  else
    archive_with /bin/true # pg_basebackup waits for what archives, and the slot keeps the log
    "${barman[@]}" receive-wal bench >"$store/stream.log" 2>&1 & receiver=$!; servers+=("$receiver")
  fi
}
barman_file_log() { # files what came, until SEGMENT is there; Barman's users let cron do this every minute
  until compgen -G "$store/repository/bench/wals/*/$1" >/dev/null; do
    /usr/bin/time -q -a -o "$store/filing" -f '%U %S' "${barman[@]}" archive-wal bench
  done
}
barman_save() { phase "$1" "${barman[@]}" backup --wait bench; }
barman_bring_back() {
  phase restore "${barman[@]}" recover --get-wal --target-immediate bench latest "$store/restored"
  echo "restore_command = 'barman -c $store/barman.conf get-wal -P bench %f >%p'" >>"$store/restored/postgresql.auto.conf" # Barman's goes by /etc
}

chancery_prepare() {
  export CHANCERY_HOME=$store/home
  mkdir -p "$store"/{repository,keys}
  local n=${variant%-all} names=() hosts=(LU IS PT) custodian reader fingerprint name i need holders=()
  need=$((n == 1 ? 1 : 2))
  [[ $variant != *-all ]] || holders=(--holders "$n")
  custodian=$("$chancery" custodian keygen --name custodian --out "$store/keys/custodian" | tail -n 1)
  reader=$("$chancery" custodian keygen --name reader --out "$store/keys/reader" | tail -n 1)
  ssh-keygen -q -t ed25519 -N '' -f "$store/keys/minister"
  "$chancery" state init --home "$CHANCERY_HOME" --name Benchmark --code XX --quorum 1 --custodian "custodian=$custodian"
  for ((i = 0; i < n; i++)); do
    name=embassy$i
    fingerprint=$("$chancery" embassy init --dir "$store/repository/$name" --name "$name" --country "${hosts[i]}" | grep -o 'SHA256:[A-Za-z0-9+/]*' | head -n 1)
    "$chancery" agreement draft --home "$CHANCERY_HOME" --with "${hosts[i]}" --host-name Host --name "$name" --embassy-key "$fingerprint" \
      --signatory "minister=$store/keys/minister.pub" --quota 100000000000 --open-as "as agreed" --out "$store/keys/$name"
    "$chancery" agreement sign "$store/keys/$name" --home "$CHANCERY_HOME" --key "$CHANCERY_HOME/keys/signer"
    "$chancery" agreement sign "$store/keys/$name" --home "$CHANCERY_HOME" --key "$store/keys/minister"
    "$chancery" embassy admit --dir "$store/repository/$name" --agreement "$store/keys/$name" --state "$CHANCERY_HOME/charter.yaml"
    "$chancery" embassy serve --dir "$store/repository/$name" --listen "127.0.0.1:$((port + i))" 2>>"$store/$name.log" &
    servers+=($!)
    until (: <"/dev/tcp/127.0.0.1/$((port + i))") 2>/dev/null; do sleep 0.1; done
    "$chancery" embassy accredit --home "$CHANCERY_HOME" --name "$name" --url "https://127.0.0.1:$((port + i))" --key "$fingerprint"
    names+=("$name")
  done
  "$chancery" register add bench --home "$CHANCERY_HOME" --postgres "host=$store port=5499 user=postgres" --need $need "${holders[@]}" --reader "$reader" \
    --embassies "$(IFS=, && echo "${names[*]}")"
  archive_with ''
}
chancery_save() { phase "$1" "$chancery" backup bench -q; }
chancery_bring_back() {
  phase restore "$chancery" restore bench -q --identity "$store/keys/reader" --to "$store/restored" --owner postgres --no-wait
}

# --- phases of the log -----------------------------------------------------------------------------------------------

wal_at() { q "select (pg_current_wal_insert_lsn() - '0/0')::bigint"; }
until_kept() { # asked within the server: who measures takes no part
  q "do \$\$ begin loop
    perform pg_stat_clear_snapshot();
    exit when coalesce((select max(flush_lsn - '0/0')::bigint from pg_stat_replication where application_name = 'chancery'), 0) >= $1;
    perform pg_sleep(0.05);
  end loop; end \$\$"
}
make_backlog() {
  local from at
  from=$(wal_at) at=$from
  while [ $(((at - from) / 16777216)) -lt "$segs" ]; do
    load -t 3000
    q "create table bulk as select i, md5(i::text) a, md5((i * 7)::text) b, now() c from generate_series(1, 600000) i; drop table bulk"
    at=$(wal_at)
  done
  q 'select pg_switch_wal()' >/dev/null
  q checkpoint
}
start_stream() { "$chancery" pg stream bench -q 2>"$store/stream.log" & stream=$!; servers+=("$stream"); }

measure_archive() {
  local before after t0 t1 target last filing=0 peak=
  case $setup in chancery-*) ;; *) archive_with '' ;; esac
  [ -z "$receiver" ] || { kill "$receiver"; wait "$receiver" || true; }
  make_backlog
  target=$(wal_at)
  last=$(q "select pg_walfile_name('0/0'::pg_lsn + ($target - 16777216))")
  before=$(others_cpu) t0=$(date +%s.%N)
  case $setup in
  chancery-*) start_stream; until_kept $((target - 65536)) ;;
  pgbackrest-*) archive_with "pgbackrest --config=$store/pgbackrest.conf --stanza=bench archive-push %p"; while [ "$(ready)" != 0 ]; do sleep 0.05; done ;;
  barman-*) barman_take_log; rm -f "$store/filing"; barman_file_log "$last"; filing=$(awk '{s += $1 + $2} END {print s + 0}' "$store/filing") ;;
  *) archive_with "cp %p $store/wal/%f"; while [ "$(ready)" != 0 ]; do sleep 0.05; done ;;
  esac
  t1=$(date +%s.%N) after=$(others_cpu)
  [ -z "${stream:-}" ] || peak=$(awk '/^VmHWM/ {print "\t" $2}' "/proc/$stream/status")
  awk -v OFS='\t' -v s="$setup" -v r="$round" -v n="$segs" -v t="$(awk "BEGIN {print $t1 - $t0}")" -v c="$(awk "BEGIN {print $after - $before + $filing}")" \
    -v p="$peak" 'BEGIN {printf "%s\t%s\tarchive\t%.2f\t%.3f%s\n", s, r, n / t, c / n, p}' | tee -a "$results"
}

measure_lag() {
  local what standby=
  case $setup in
  chancery-*) standby=chancery
    [ -n "${stream:-}" ] && kill -0 "$stream" 2>/dev/null || start_stream; sleep 2 ;;
  barman-rsync) ;;
  barman-*) standby=barman_receive_wal ;;
  esac
  case $standby in
  ?*) what="coalesce((select (flush_lsn - '0/0')::bigint from pg_stat_replication where application_name = '$standby' and flush_lsn is not null limit 1), 0)" ;;
  *) what="coalesce((select ('x' || substr(last_archived_wal, 9, 8))::bit(32)::bigint * 4294967296 + ('x' || substr(last_archived_wal, 17, 8))::bit(32)::bigint * 16777216 + 16777216 from pg_stat_archiver), 0)" ;;
  esac
  load -R 1500 -T "$lag" &
  local loader=$!
  printf 'select extract(epoch from clock_timestamp()), (pg_current_wal_insert_lsn() - %s)::bigint, %s \\watch 0.05\n' "'0/0'" "$what" >"$store/watch.sql"
  timeout "$lag" psql -qAtX -F ' ' -h "$store" -p 5499 -U postgres postgres -f "$store/watch.sql" >"$store/watch" 2>/dev/null || true
  wait "$loader" || true
  awk 'NF == 3 {
      n++; t[n] = $1; cur[n] = $2
      while (first < n && cur[first + 1] <= $3) first++
      if (t[n] - t[1] > 3) print (first < n ? t[n] - t[first ? first : 1] : 0) # since the last moment that is known to be safe
    }
    END { printf "rate %.2f\n", (cur[n] - cur[1]) / 1048576 / (t[n] - t[1]) > "/dev/stderr" }' "$store/watch" 2>"$store/rate" | sort -g |
    awk -v OFS='\t' -v s="$setup" -v r="$round" -v rate="$(sleep 0.2; awk '{print $2}' "$store/rate" 2>/dev/null)" \
      '{v[NR] = $1} END {printf "%s\t%s\tlag\t%.3f\t%.3f\t%s\n", s, r, v[int((NR + 1) / 2)], v[int(NR * 0.99)], rate}' | tee -a "$results"
}

measure_sync() { # what a commit costs that waits for the embassies
  local clients mode
  [ -z "${stream:-}" ] || { kill "$stream"; wait "$stream" 2>/dev/null || true; }
  sed -i 's/^postgres:$/postgres:\n  synchronous: true/' "$CHANCERY_HOME/registers/bench/register.yaml"
  start_stream
  sleep 2
  q "alter system set synchronous_standby_names = 'chancery'"
  q 'select pg_reload_conf()' >/dev/null
  sleep 1
  for mode in sync local; do
    [ "$mode" = sync ] || { q 'alter system reset synchronous_standby_names'; q 'select pg_reload_conf()' >/dev/null; sleep 1; }
    for clients in 1 16; do
      as pgbench -h "$store" -p 5499 -n -N -c "$clients" -j 2 -T 8 postgres 2>/dev/null |
        awk -v OFS='\t' -v s="$setup" -v r="$round" -v m="$mode" -v c="$clients" '/^latency average/ {l = $4} /^tps/ {print s, r, m, c, $3, l}' | tee -a "$results"
    done
  done
}

# --- one round of one setup ------------------------------------------------------------------------------------------

proven() { # the restored cluster starts and holds the same
  local want got
  want=$(q "select count(*), sum(abalance), sum(aid) from pgbench_accounts")
  printf "port = 5498\narchive_mode = off\nunix_socket_directories = '%s'\n" "$store" >>"$store/restored/postgresql.auto.conf"
  case $setup in
  chancery-*) "$chancery" pg serve bench -q --to "$store/restored" --identity "$store/keys/reader" 2>"$store/serve.log" & servers+=($!)
    until [ -S "$store/restored/chancery_recovery/socket" ]; do sleep 0.1; done ;;
  esac
  as pg_ctl -D "$store/restored" -w -t 120 -l "$store/restored.log" start >/dev/null || { tail -n 5 "$store/restored.log" >&2; die "$setup: the restored server does not start"; }
  got=$(psql -qAtX -h "$store" -p 5498 -U postgres postgres -c "select count(*), sum(abalance), sum(aid) from pgbench_accounts")
  as pg_ctl -D "$store/restored" -m immediate -w stop >/dev/null
  [ "$got" = "$want" ] || die "$setup: the restored cluster differs: $got, not $want"
}

measure() {
  local program=${setup%%-*} variant=${setup#*-} stream= receiver=
  clear_away
  q vacuum # or the server does that, and writes it into its log, while the first thing is measured
  q checkpoint
  forget
  mkdir -p "$store/repository"
  "${program}_prepare" >"$store/output" 2>&1 || { cat "$store/output" >&2; die "$setup: cannot be prepared"; }
  q 'select pg_switch_wal()' >/dev/null
  "${program}_save" full
  if [[ $phases == *second* ]]; then change_some; "${program}_save" second; fi
  if [[ $phases == *restore* ]]; then "${program}_bring_back"; [ "$round" != 1 ] || proven; rm -rf "$store/restored"; fi
  [[ $phases != *archive* ]] || measure_archive
  [[ $phases != *lag* ]] || measure_lag
  if [[ $phases == *sync* && $setup == chancery-* ]]; then measure_sync; fi
  archive_with ''
  stop_servers
}
forget() { # what the setup before this one, or a run that was ended, left at the server
  local setting
  for setting in synchronous_standby_names synchronous_commit; do q "alter system reset $setting"; done
  until [ "$(q 'select count(*) from pg_replication_slots where active')" = 0 ]; do sleep 0.1; done
  q "select pg_drop_replication_slot(slot_name) from pg_replication_slots" >/dev/null
  archive_with /bin/true # or this one would archive the backlog of that one during its first backup
  while [ "$(ready)" != 0 ]; do sleep 0.1; done
  archive_with ''
}
clear_away() {
  stop_servers
  rm -rf "$store"/{repository,home,keys,restored,log,lock,spool,wal}
}

run() {
  [ $# -ge 4 ] || die "a file for the results, a scale, a number of rounds and setups are needed"
  results=$(realpath "$1") scale=$2 rounds=$3
  shift 3
  store=${STORE:-/tmp/chancery-pg} port=${PORT:-17451} phases=${PHASES:-full second restore archive lag sync} segs=${SEGS:-48} lag=${LAG:-25}
  mkdir -p "$store"
  chancery=${CHANCERY:-$store/chancery}
  [ -n "${CHANCERY:-}" ] || (cd "$(dirname "${BASH_SOURCE[0]}")/.." && CGO_ENABLED=0 go build -o "$chancery" ./cmd/chancery)
  make_database
  trap 'clear_away; as pg_ctl -D "$store/data" -m immediate stop >/dev/null 2>&1' EXIT
  trap 'exit 130' INT TERM
  for ((round = 1; round <= rounds; round++)); do
    for setup in "$@"; do measure; done
  done
}

report() {
  [ $# = 1 ] && [ -r "$1" ] || die "a file of results is needed"
  echo '| phase | setup | first figure | second | third | rounds |'
  echo '| --- | --- | ---: | ---: | ---: | ---: |'
  awk -F'\t' -v OFS='\t' '{for (c = 4; c <= NF; c++) print $3, $1, c, $c}' "$1" | sort -t$'\t' -k1,3 -k4,4g | awk -F'\t' '
    function done_group() { if (n) { m = n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2; row = a[1] " | " a[2]; if (!(row in cells)) order[++rows] = row; cells[row] = cells[row] " | " m; rounds[row] = n; n = 0 } }
    { now = $1 "\t" $2 "\t" $3; if (now != key) { done_group(); key = now; split(now, a, "\t") } v[++n] = $4 }
    END { done_group(); for (i = 1; i <= rows; i++) print "| " order[i] cells[order[i]] " | " rounds[order[i]] " |" }'
}

case ${1:-} in
run) run "${@:2}" ;;
report) report "${@:2}" ;;
*) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
