{{/* Name of the DaemonSet and of all that is made with it. */}}
{{- define "isthmus.name" -}}
{{- .Values.resourceName | default "ztunnel" -}}
{{- end }}

{{- define "isthmus.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "isthmus.name" .) -}}
{{- end }}

{{/* Whether objects of a scope are made: dict "scope" "cluster" or "namespace", "values" .Values */}}
{{- define "isthmus.makes" -}}
{{- if has .values.resourceScope (list "all" .scope) }}yes{{ end -}}
{{- end }}

{{- define "isthmus.image" -}}
{{- if contains "/" .Values.image -}}
{{- .Values.image -}}
{{- else -}}
{{- with .Values.hub | default .Values.global.hub }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .Values.image }}:{{ .Values.tag | default .Values.global.tag | default .Chart.AppVersion -}}
{{- end -}}
{{- end }}

{{/* Labels of every object. */}}
{{- define "isthmus.labels" -}}
app: ztunnel
{{ include "isthmus.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: istio
{{- with .Values.revision }}
istio.io/rev: {{ . | quote }}
{{- end }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels by which the DaemonSet knows its pods. They can never change. */}}
{{- define "isthmus.selector" -}}
app.kubernetes.io/name: isthmus
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* istiod, as HOST:PORT. */}}
{{- define "isthmus.istiod" -}}
istiod{{ with .Values.revision }}-{{ . }}{{ end }}.{{ .Values.istioNamespace }}.svc:15012
{{- end }}

{{- define "isthmus.clusterName" -}}
{{- .Values.multiCluster.clusterName | default .Values.global.multiCluster.clusterName | default "Kubernetes" -}}
{{- end }}

{{- define "isthmus.network" -}}
{{- .Values.network | default .Values.global.network -}}
{{- end }}

{{/* What differs from platform to platform, where a value does not say it: dict "key" KEY "root" $ */}}
{{- define "isthmus.onPlatform" -}}
{{- $platforms := dict
      "gke" (dict "cniBinDir" "/home/kubernetes/bin")
      "openshift" (dict "cniBinDir" "/var/lib/cni/bin" "cniConfDir" "/etc/cni/multus/net.d" "seLinuxType" "spc_t")
      "k3d" (dict "cniBinDir" "/bin" "cniConfDir" "/var/lib/rancher/k3s/agent/etc/cni/net.d")
      "k3s" (dict "cniBinDir" "/var/lib/rancher/k3s/data/cni" "cniConfDir" "/var/lib/rancher/k3s/agent/etc/cni/net.d")
      "microk8s" (dict "cniBinDir" "/var/snap/microk8s/current/opt/cni/bin" "cniConfDir" "/var/snap/microk8s/current/args/cni-network")
      "minikube" (dict "cniNetnsDir" "/var/run/docker/netns") -}}
{{- $usual := dict "cniBinDir" "/opt/cni/bin" "cniConfDir" "/etc/cni/net.d" "cniNetnsDir" "/var/run/netns" "seLinuxType" "" -}}
{{- $platform := get $platforms .root.Values.global.platform | default dict -}}
{{- get $platform .key | default (get $usual .key) -}}
{{- end }}

{{- define "isthmus.cniBinDir" -}}
{{- .Values.cniBinDir | default (include "isthmus.onPlatform" (dict "key" "cniBinDir" "root" .)) -}}
{{- end }}

{{- define "isthmus.cniConfDir" -}}
{{- .Values.cniConfDir | default (include "isthmus.onPlatform" (dict "key" "cniConfDir" "root" .)) -}}
{{- end }}

{{- define "isthmus.cniNetnsDir" -}}
{{- .Values.cniNetnsDir | default (include "isthmus.onPlatform" (dict "key" "cniNetnsDir" "root" .)) -}}
{{- end }}
