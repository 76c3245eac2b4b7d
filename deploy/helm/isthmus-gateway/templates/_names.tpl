{{- define "gateway.name" -}}
{{- .Values.name | default .Release.Name | trunc 63 -}}
{{- end }}

{{- define "gateway.network" -}}
{{- required "networkGateway (or global.network) must name the network that is reached through this gateway" (.Values.networkGateway | default .Values.global.network) -}}
{{- end }}

{{- define "gateway.image" -}}
{{- if contains "/" .Values.image -}}
{{- .Values.image -}}
{{- else -}}
{{- with .Values.hub | default .Values.global.hub }}{{ trimSuffix "/" . }}/{{ end -}}
{{- .Values.image }}:{{ .Values.tag | default .Values.global.tag | default .Chart.AppVersion -}}
{{- end -}}
{{- end }}

{{/* Labels of every object. */}}
{{- define "gateway.labels" -}}
{{ include "gateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: istio
# By it istiod knows of which network this is the gateway.
topology.istio.io/network: {{ include "gateway.network" . | quote }}
{{- with .Values.revision }}
istio.io/rev: {{ . | quote }}
{{- end }}
{{- with .Values.labels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels by which Deployment and Service know the pods. */}}
{{- define "gateway.selector" -}}
app: {{ include "gateway.name" . }}
app.kubernetes.io/name: isthmus-gateway
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{/* istiod, as HOST:PORT. */}}
{{- define "gateway.istiod" -}}
istiod{{ with .Values.revision }}-{{ . }}{{ end }}.{{ .Values.istioNamespace }}.svc:15012
{{- end }}

{{- define "gateway.clusterName" -}}
{{- .Values.multiCluster.clusterName | default .Values.global.multiCluster.clusterName | default "Kubernetes" -}}
{{- end }}

{{/* What the Gateway calls its Service. */}}
{{- define "gateway.host" -}}
{{ include "gateway.name" . }}.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain | default "cluster.local" }}
{{- end }}

{{/* The gateway's variables: those of the values `env` and `proxyMetadata`, and of ours what they do not say. */}}
{{- define "gateway.env" -}}
{{- $given := merge (dict) .Values.env .Values.meshConfig.defaultConfig.proxyMetadata -}}
{{- $all := list -}}
{{- range include "gateway.variables" . | fromYamlArray -}}
{{- if not (hasKey $given .name) }}{{ $all = append $all . }}{{ end -}}
{{- end -}}
{{- range $name, $value := $given -}}
{{- $all = append $all (dict "name" $name "value" (toString $value)) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end }}

{{- define "gateway.variables" -}}
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: POD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: SERVICE_ACCOUNT
  valueFrom:
    fieldRef:
      fieldPath: spec.serviceAccountName
- name: INSTANCE_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: ISTHMUS_IDENTITY
  value: {{ printf "%s/%s" .Release.Namespace (include "gateway.name" .) | quote }}
- name: NETWORK
  value: {{ include "gateway.network" . | quote }}
- name: XDS_ADDRESS
  value: {{ .Values.xdsAddress | default (include "gateway.istiod" .) | quote }}
- name: CA_ADDRESS
  value: {{ .Values.caAddress | default (include "gateway.istiod" .) | quote }}
- name: ISTIO_META_CLUSTER_ID
  value: {{ include "gateway.clusterName" . | quote }}
{{- with .Values.meshID | default .Values.global.meshID }}
- name: ISTIO_META_MESH_ID
  value: {{ . | quote }}
{{- end }}
{{- with .Values.meshConfig.trustDomain }}
- name: TRUST_DOMAIN
  value: {{ . | quote }}
{{- end }}
{{- with .Values.clusterDomain }}
- name: CLUSTER_DOMAIN
  value: {{ . | quote }}
{{- end }}
- name: RUST_LOG
  value: {{ .Values.logLevel | quote }}
{{- if or .Values.logAsJson .Values.global.logAsJson }}
- name: LOG_FORMAT
  value: json
{{- end }}
- name: TERMINATION_GRACE_PERIOD_SECONDS
  value: {{ .Values.terminationGracePeriodSeconds | quote }}
{{- end }}
