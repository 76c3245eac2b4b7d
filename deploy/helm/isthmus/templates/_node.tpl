{{/*
What a container needs of the node: the agent, and the one that takes its traces away.
docs/install.md tells it in a table; deploy/systemd/isthmus.service and `isthmus check` name the same capabilities.
*/}}

{{- define "isthmus.securityContext" -}}
privileged: false
# Kubernetes refuses `false` beside SYS_ADMIN. The image holds nothing that could gain by it.
allowPrivilegeEscalation: true
readOnlyRootFilesystem: true
runAsUser: 0
runAsGroup: 0
runAsNonRoot: false
capabilities:
  drop: [ALL]
  # SYS_ADMIN holds BPF and PERFMON, and since Linux 5.7 a socket is bound to a device without NET_RAW. A test takes each of
  # these away and sees what fails (tests/tests/capabilities.rs).
  add:
    - NET_ADMIN     # attach programs; rules, routes and sysctls in pods; SO_MARK, IP_TRANSPARENT
    - SYS_ADMIN     # enter the network namespaces of pods; load programs, create maps and links, pin them
    - SYS_PTRACE    # open /proc/PID/ns/net: the node's namespace, and those of pods that run already
    - DAC_OVERRIDE  # open namespace files of other users, and write CNI directories of another owner
# It lets bpf(2), setns(2) and unshare(2) through for who has the capabilities above.
seccompProfile:
  type: RuntimeDefault
{{- if not (include "isthmus.isBelow130" .) }}
# The runtime's profile forbids to open namespaces of processes that have no profile, and to write below /sys.
appArmorProfile:
  type: Unconfined
{{- end }}
{{- if .Values.seLinuxOptions }}
seLinuxOptions:
  {{- toYaml .Values.seLinuxOptions | nindent 2 }}
{{- else }}
{{- with include "isthmus.onPlatform" (dict "key" "seLinuxType" "root" .) }}
seLinuxOptions:
  type: {{ . }}
{{- end }}
{{- end }}
{{- end }}

{{/* Not by semverCompare, which fails where an apiserver was built without a version. */}}
{{- define "isthmus.isBelow130" -}}
{{- if regexMatch "^v?1\\.[12]?[0-9]([^0-9]|$)" .Capabilities.KubeVersion.Version }}yes{{ end -}}
{{- end }}

{{/* Kubernetes below 1.30 is told by an annotation. CONTAINER is the name of the container: dict "container" NAME "root" $ */}}
{{- define "isthmus.appArmorAnnotation" -}}
{{- if include "isthmus.isBelow130" .root -}}
container.apparmor.security.beta.kubernetes.io/{{ .container }}: unconfined
{{- end -}}
{{- end }}

{{- define "isthmus.nodeVariables" -}}
- name: ISTHMUS_RUN_DIR
  value: {{ .Values.runDir | quote }}
- name: ISTHMUS_STATE_DIR
  value: {{ .Values.stateDir | quote }}
- name: ISTHMUS_BPFFS
  value: /sys/fs/bpf/isthmus
- name: ISTHMUS_CGROUP
  value: /host/sys/fs/cgroup
- name: ISTHMUS_CNI_BIN_DIR
  value: /host/opt/cni/bin
- name: MOUNTED_CNI_NET_DIR
  value: /host/etc/cni/net.d
{{- end }}

{{- define "isthmus.nodeMounts" -}}
# Writable: programs, links and maps are pinned here.
- name: bpffs
  mountPath: /sys/fs/bpf
# Writable: `isthmus check` tries programs in a cgroup of its own. The agent attaches to the root and changes nothing.
- name: cgroup
  mountPath: /host/sys/fs/cgroup
# The node's own network namespace, and those of pods that run already, are found by their processes.
- name: proc
  mountPath: /host/proc
  readOnly: true
# Writable: sysctls of pods. What is seen here is the namespace of who looks, never the node's alone.
- name: proc-sys-net
  mountPath: /host/proc/sys/net
# Writable: grace periods of the kernel are short for the moment in which a pod is brought in.
- name: rcu-expedited
  mountPath: /sys/kernel/rcu_expedited
# Network namespaces as the runtime names them; those that are made later appear as well.
- name: netns
  mountPath: {{ include "isthmus.cniNetnsDir" . }}
  mountPropagation: HostToContainer
  readOnly: true
# Writable: the agent's socket, which the CNI plugin asks, and its records of pods.
- name: run
  mountPath: {{ .Values.runDir }}
# Writable: what the plugin goes by while no agent runs, also after a reboot.
- name: state
  mountPath: {{ .Values.stateDir }}
{{- if or (ne .Values.cniInstall "off") .Values.takeOverIstioCni }}
# Writable: the plugin's binary is placed here, and its configuration below.
- name: cni-bin
  mountPath: /host/opt/cni/bin
- name: cni-conf
  mountPath: /host/etc/cni/net.d
{{- end }}
{{- if .Values.takeOverIstioCni }}
# Writable: whether istio-cni is gone is told by its sockets, which are then removed.
- name: istio-cni-run
  mountPath: /host/var/run/istio-cni
- name: ztunnel-run
  mountPath: /host/var/run/ztunnel
{{- end }}
{{- end }}

{{- define "isthmus.nodeVolumes" -}}
- name: bpffs
  hostPath:
    path: {{ .Values.bpffsDir }}
    type: Directory
- name: cgroup
  hostPath:
    path: {{ .Values.cgroupDir }}
    type: Directory
- name: proc
  hostPath:
    path: /proc
    type: Directory
- name: proc-sys-net
  hostPath:
    path: /proc/sys/net
    type: Directory
- name: rcu-expedited
  hostPath:
    path: /sys/kernel/rcu_expedited
    type: File
- name: netns
  hostPath:
    path: {{ include "isthmus.cniNetnsDir" . }}
    type: DirectoryOrCreate
- name: run
  hostPath:
    path: {{ .Values.runDir }}
    type: DirectoryOrCreate
- name: state
  hostPath:
    path: {{ .Values.stateDir }}
    type: DirectoryOrCreate
{{- if or (ne .Values.cniInstall "off") .Values.takeOverIstioCni }}
- name: cni-bin
  hostPath:
    path: {{ include "isthmus.cniBinDir" . }}
    type: DirectoryOrCreate
- name: cni-conf
  hostPath:
    path: {{ include "isthmus.cniConfDir" . }}
    type: DirectoryOrCreate
{{- end }}
{{- if .Values.takeOverIstioCni }}
- name: istio-cni-run
  hostPath:
    path: /var/run/istio-cni
    type: DirectoryOrCreate
- name: ztunnel-run
  hostPath:
    path: /var/run/ztunnel
    type: DirectoryOrCreate
{{- end }}
{{- end }}

{{/* Where pods of the DaemonSet run. */}}
{{- define "isthmus.scheduling" -}}
nodeSelector:
  kubernetes.io/os: linux
  {{- with .Values.nodeSelector }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}
