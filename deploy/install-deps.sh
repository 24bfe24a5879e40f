#!/usr/bin/env bash
# Installs what building, testing and the lab need on Debian 12 or Ubuntu 24.04, and nothing that is
# there already. Idempotent. No daemon of an installed package is started.
#
#   deploy/install-deps.sh            # install what is missing (root)
#   deploy/install-deps.sh --check    # only say what is missing; exit 1 if anything is
set -euo pipefail

# command:package
needs=(
    cc:build-essential make:make clang:clang clang-19:clang-19 curl:curl
    ip:iproute2 bird:bird2 nsd:nsd nginx:nginx-light dig:dnsutils ping:iputils-ping
    iperf3:iperf3 tcpdump:tcpdump nft:nftables ethtool:ethtool python3:python3 ps:procps
    unshare:util-linux traceroute:traceroute socat:socat
)

PATH=$PATH:/usr/sbin:/sbin
missing=()
for need in "${needs[@]}"; do
    command -v "${need%%:*}" >/dev/null 2>&1 || missing+=("${need##*:}")
done
# The stream module is a file of nginx, not a command.
compgen -G '/usr/lib/nginx/modules/ngx_stream_module.so' >/dev/null || missing+=(libnginx-mod-stream)

if ! command -v cargo >/dev/null 2>&1; then
    echo "install-deps: no cargo: install a Rust toolchain (1.95 or later) first, https://rustup.rs" >&2
    exit 1
fi
if [ ${#missing[@]} -eq 0 ]; then
    exit 0
fi
if [ "${1:-}" = --check ]; then
    echo "install-deps: missing: ${missing[*]}" >&2
    exit 1
fi
if [ "$(id -u)" -ne 0 ]; then
    echo "install-deps: missing: ${missing[*]}; run as root: deploy/install-deps.sh" >&2
    exit 1
fi

echo "install-deps: installing ${missing[*]}"
# Debian starts the daemons that it installs; a lab has its own, and the host wants none.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    trap 'rm -f "$policy"' EXIT
fi
export DEBIAN_FRONTEND=noninteractive
apt-get update -qq
apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
