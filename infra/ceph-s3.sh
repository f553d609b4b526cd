#!/usr/bin/env bash
# A real S3 server on 127.0.0.1 for tests and trials: one Ceph monitor, one OSD on a sparse file, one RADOS gateway.
#
#   infra/ceph-s3.sh install            Debian's packages (needs root)
#   infra/ceph-s3.sh up DIR [PORT]      start; data lie in DIR and survive a restart; on PORT (17480) and PORT + 1
#   infra/ceph-s3.sh down DIR           stop the processes that `up` started there, by their pid files
#
# Endpoint http://127.0.0.1:PORT, access key testkey, secret testsecret. Never expose it: the cluster has no authentication.
# A second user, limitedkey and limitedsecret, may do in others' buckets what policies allow it; testkey may set them.
set -euo pipefail

usage() { sed -n '2,10s/^# \{0,1\}//p' "$0" >&2; exit 2; }

configure() {
    local dir=$1 port=$2 monitor=$3
    mkdir -p "$dir"/{mon,osd,rgw,log,run}
    cat > "$dir/ceph.conf" <<CONF
[global]
fsid = $(cat /proc/sys/kernel/random/uuid)
mon host = [v2:127.0.0.1:$monitor]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
mon allow pool size one = true
mon max pg per osd = 4000
mon data avail warn = 1
mon data avail crit = 1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
run dir = $dir/run
admin socket = $dir/run/\$name.asok
pid file = $dir/run/\$name.pid
log file = $dir/log/\$name.log
# Without this the clients wait for a secure handshake that a cluster without authentication never makes.
ms mon client mode = crc
[mon]
mon data = $dir/mon
[osd]
osd data = $dir/osd
osd objectstore = bluestore
bluestore block size = 21474836480
bluestore block create = true
osd memory target = 939524096
[client.rgw]
rgw data = $dir/rgw
# tcp_nodelay: small answers would otherwise wait 40 ms each.
rgw frontends = beast endpoint=127.0.0.1:$port tcp_nodelay=1
rgw thread pool size = 64
rgw dynamic resharding = false
rgw enable usage log = false
rgw enable ops log = false
CONF
}

start() { # name, then the command; it runs in the foreground of its own background job
    local name=$1
    shift
    nohup "$@" > "$dir/log/$name.out" 2>&1 &
    echo $! > "$dir/$name.started"
}

up() {
    dir=$(realpath -m "$1")
    local port=${2:-17480} fresh="" osd
    [ -x "$(command -v radosgw)" ] || { echo "ceph is not installed: run $0 install" >&2; exit 1; }
    export CEPH_CONF="$dir/ceph.conf" CEPH_ARGS=""
    if [ ! -e "$dir/osd/ready" ]; then
        fresh=1
        rm -rf "$dir/mon" "$dir/osd"
        configure "$dir" "$port" $((port + 1))
        monmaptool --create --clobber --fsid "$(awk '/^fsid/ {print $3}' "$dir/ceph.conf")" \
            --addv a "[v2:127.0.0.1:$((port + 1))]" "$dir/monmap" > /dev/null
        ceph-mon --mkfs -i a --monmap "$dir/monmap" > /dev/null
    fi
    start mon ceph-mon -f -i a
    if [ -n "$fresh" ]; then
        osd=$(cat /proc/sys/kernel/random/uuid)
        timeout 60 ceph osd new "$osd" > /dev/null
        echo bluestore > "$dir/osd/type"
        ceph-osd --mkfs -i 0 --osd-uuid "$osd" > "$dir/log/mkfs.out" 2>&1
    fi
    start osd ceph-osd -f -i 0
    start rgw radosgw -f -n client.rgw
    for _ in $(seq 900); do
        python3 -c "import socket; socket.create_connection(('127.0.0.1', $port), 1)" 2> /dev/null && break
        sleep 0.1
    done
    if [ -n "$fresh" ]; then
        radosgw-admin user create --uid=test --display-name=test --access-key=testkey --secret-key=testsecret \
            --caps="user-policy=*" > "$dir/log/user.out" 2>&1
        radosgw-admin user create --uid=limited --display-name=limited --access-key=limitedkey --secret-key=limitedsecret \
            > "$dir/log/limited.out" 2>&1
        touch "$dir/osd/ready"
    fi
    echo "http://127.0.0.1:$port"
}

down() {
    local dir name pid
    dir=$(realpath -m "$1")
    for name in rgw osd mon; do
        [ -e "$dir/$name.started" ] || continue
        pid=$(cat "$dir/$name.started")
        # Only what still is the process that was started here.
        if grep -qs "ceph\|radosgw" "/proc/$pid/cmdline"; then
            kill "$pid"
            for _ in $(seq 100); do kill -0 "$pid" 2> /dev/null || break; sleep 0.1; done
            kill -9 "$pid" 2> /dev/null || true
        fi
        rm -f "$dir/$name.started"
    done
}

case "${1:-}" in
    install)
        apt-get update -qq
        # RUNLEVEL=1 keeps Debian from starting services.
        RUNLEVEL=1 apt-get install -y -qq --no-install-recommends ceph-mon ceph-osd ceph-common radosgw > /dev/null
        ;;
    up) [ $# -ge 2 ] || usage; shift; up "$@" ;;
    down) [ $# -eq 2 ] || usage; down "$2" ;;
    *) usage ;;
esac
