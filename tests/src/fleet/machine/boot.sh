# The first process of a node: mounts what a machine has of its own, then keeps containerd and kubelet running.
# Before this stand: node, disk, address, kubelet, taints, images, mounts.
set -eu
hostname "$node"
mount --make-rslave /
mount --make-rshared /
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# Where there are several hierarchies, they lie in a tmpfs.
case "$mounts" in
*" "*) mount -t tmpfs -o mode=755 cgroups /sys/fs/cgroup ;;
esac
for mount in $mounts; do
    at=${mount%%:*}; rest=${mount#*:}; kind=${rest%%:*}; told=${rest#*:}
    mkdir -p "$at"
    mount -t "$kind" ${told:+-o "$told"} "$kind" "$at"
done
if [ "$mounts" = "/sys/fs/cgroup:cgroup2:" ]; then
    # Controllers are given on by a cgroup that has no process of its own (cgroup-v2.rst, "No Internal Process Constraint").
    mkdir -p /sys/fs/cgroup/init
    echo $$ > /sys/fs/cgroup/init/cgroup.procs
    sed 's/\(^\| \)/ +/g' /sys/fs/cgroup/cgroup.controllers > /sys/fs/cgroup/cgroup.subtree_control
fi
mount -t bpf bpf /sys/fs/bpf
# What is lost when a machine loses power, and what is not.
mount -t tmpfs -o mode=755 tmpfs /run
for place in etc opt var; do
    mkdir -p "$disk/$place" "$disk/.$place"
    mount -t overlay -o "lowerdir=/$place,upperdir=$disk/$place,workdir=$disk/.$place" overlay "/$place"
done
for place in var/lib/containerd var/lib/kubelet; do
    mkdir -p "/$place" "$disk/real/$place"
    mount --bind "$disk/real/$place" "/$place"
done
mkdir -p /run/netns /etc/cni/net.d /opt/cni/bin
cp -u /usr/lib/cni/bridge /usr/lib/cni/host-local /usr/lib/cni/loopback /opt/cni/bin/
cp "$disk/network.conflist" /etc/cni/net.d/10-lab.conflist

# A daemon that ends is started again, as systemd would.
keep() {
    local log=$1
    shift
    while true; do "$@" >> "$log" 2>&1 || true; echo "$1 ended" >> "$log"; sleep 0.2; done
}
keep "$disk/containerd.log" containerd --config "$disk/containerd.toml" &
ctr() { command ctr --address /run/containerd/containerd.sock --namespace k8s.io "$@"; }
tries=0
until ctr version > /dev/null 2>&1; do
    tries=$((tries + 1))
    [ $tries -lt 600 ] || { echo "containerd does not come up"; tail -20 "$disk/containerd.log"; exit 1; }
    sleep 0.1
done
for image in $images; do ctr images import "$image"; done
keep "$disk/kubelet.log" "$kubelet" --config="$disk/kubelet.json" --kubeconfig="$disk/kubeconfig" \
    --hostname-override="$node" --node-ip="$address" --root-dir=/var/lib/kubelet --cert-dir="$disk/certs" \
    ${taints:+--register-with-taints="$taints"} &
wait
