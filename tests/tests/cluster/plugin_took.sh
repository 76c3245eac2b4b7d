# How long isthmus-cni takes to ask the agent one question and go: DEL of a pod that nobody knows. Prints the median and the 99th
# of a hundred in microseconds, the start of the process included.
set -eu
config=$(python3 - <<'END'
import json
conflist = json.load(open("/etc/cni/net.d/00-isthmus.conflist"))
plugin = next(plugin for plugin in conflist["plugins"] if plugin["type"] == "isthmus-cni")
print(json.dumps({**plugin, "name": conflist["name"], "cniVersion": conflist["cniVersion"]}))
END
)
export CNI_COMMAND=DEL CNI_CONTAINERID=nobody CNI_NETNS=/run/netns/nobody CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin
export CNI_ARGS="IgnoreUnknown=1;K8S_POD_NAMESPACE=isthmus-demo;K8S_POD_NAME=nobody;K8S_POD_UID=nobody"
for _ in $(seq 100); do
    begin=$EPOCHREALTIME
    /opt/cni/bin/isthmus-cni <<< "$config"
    end=$EPOCHREALTIME
    echo $((${end/./} - ${begin/./}))
done | sort -n | sed -n '50p;99p' | tr '\n' ' '
