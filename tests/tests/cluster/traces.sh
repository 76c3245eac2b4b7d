# What the node itself has of pods' networks: rules, sets, CNI configuration and plugins, sockets, pins.
set -eu
nft -s list ruleset
ipset list -name
find /etc/cni/net.d /opt/cni/bin /run/istio-cni /run/ztunnel /run/isthmus /sys/fs/bpf -mindepth 1 2> /dev/null || true
cat /etc/cni/net.d/*
