{{/* The agent's variables: those of the values `env` and `proxyMetadata`, and of ours what they do not say. */}}
{{- define "isthmus.env" -}}
{{- $given := merge (dict) .Values.env .Values.meshConfig.defaultConfig.proxyMetadata -}}
{{- $all := list -}}
{{- range include "isthmus.variables" . | fromYamlArray -}}
{{- if not (hasKey $given .name) }}{{ $all = append $all . }}{{ end -}}
{{- end -}}
{{- range $name, $value := $given -}}
{{- $all = append $all (dict "name" $name "value" (toString $value)) -}}
{{- end -}}
{{- toYaml $all -}}
{{- end }}

{{- define "isthmus.variables" -}}
- name: NODE_NAME
  valueFrom:
    fieldRef:
      fieldPath: spec.nodeName
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
- name: XDS_ADDRESS
  value: {{ .Values.xdsAddress | default (include "isthmus.istiod" .) | quote }}
- name: CA_ADDRESS
  value: {{ .Values.caAddress | default (include "isthmus.istiod" .) | quote }}
- name: ISTIO_META_CLUSTER_ID
  value: {{ include "isthmus.clusterName" . | quote }}
{{- with include "isthmus.network" . }}
- name: NETWORK
  value: {{ . | quote }}
{{- end }}
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
- name: SYSTEM_NAMESPACE
  value: {{ .Values.istioNamespace | quote }}
- name: EXCLUDE_NAMESPACES
  value: {{ join "," .Values.excludeNamespaces | quote }}
{{- with .Values.ambient.enablementSelectors }}
- name: AMBIENT_ENABLEMENT_SELECTOR
  value: {{ toYaml . | quote }}
{{- end }}
- name: ISTHMUS_CNI_INSTALL
  value: {{ .Values.cniInstall | quote }}
- name: ISTHMUS_CNI_WHEN_AWAY
  value: {{ .Values.cniWhenAway | quote }}
{{- with .Values.cniConfFileName }}
- name: CNI_CONF_NAME
  value: {{ . | quote }}
{{- end }}
{{- with .Values.startupTaint }}
- name: ISTHMUS_STARTUP_TAINT
  value: {{ . | quote }}
{{- end }}
{{- if .Values.takeOverIstioCni }}
- name: ISTHMUS_TAKE_OVER_ISTIO_CNI
  value: "true"
{{- end }}
- name: ISTHMUS_PROC
  value: /host/proc
- name: ISTHMUS_NODE_NETNS
  value: {{ .Values.nodeNetns | quote }}
{{ include "isthmus.nodeVariables" . }}
- name: RUST_LOG
  value: {{ .Values.logLevel | quote }}
{{- if or .Values.logAsJson .Values.global.logAsJson }}
- name: LOG_FORMAT
  value: json
{{- end }}
- name: TERMINATION_GRACE_PERIOD_SECONDS
  value: {{ .Values.terminationGracePeriodSeconds | quote }}
{{- if (.Values.resources.limits).cpu }}
- name: ZTUNNEL_RESOURCE_CPU_LIMIT
  valueFrom:
    resourceFieldRef:
      resource: limits.cpu
      divisor: "1"
{{- end }}
{{- if (.Values.resources.requests).cpu }}
- name: ZTUNNEL_RESOURCE_CPU_REQUEST
  valueFrom:
    resourceFieldRef:
      resource: requests.cpu
      divisor: "1"
{{- end }}
{{- end }}
