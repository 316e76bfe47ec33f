{{- define "agentrt.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "agentrt.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "agentrt.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- /* What selectors match. A Deployment's selector can never change, so nothing may be added here. */ -}}
{{- define "agentrt.selector" -}}
app.kubernetes.io/name: {{ include "agentrt.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: pod
{{- end -}}

{{- define "agentrt.labels" -}}
{{ include "agentrt.selector" . }}
{{ include "agentrt.commonLabels" . }}
{{- end -}}

{{- define "agentrt.commonLabels" -}}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: agentrt
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- /* metadata of an object: (list $ name-suffix extra-labels extra-annotations) */ -}}
{{- define "agentrt.metadata" -}}
{{- $root := index . 0 -}}
{{- $annotations := merge (dict) (index . 3) $root.Values.commonAnnotations -}}
name: {{ include "agentrt.fullname" $root }}{{ index . 1 }}
namespace: {{ $root.Release.Namespace }}
labels:
  {{- include "agentrt.labels" $root | nindent 2 }}
  {{- with index . 2 }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $annotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "agentrt.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ default $.Chart.AppVersion .tag }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "agentrt.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "agentrt.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "agentrt.grace" -}}
{{- with .Values.drain -}}
{{- $least := add .preStopSeconds .seconds .runsSeconds 12 -}}
{{- if kindIs "invalid" .terminationGracePeriodSeconds -}}
{{- add $least 3 -}}
{{- else -}}
{{- if lt (int .terminationGracePeriodSeconds) (int $least) -}}
{{- fail (printf "drain.terminationGracePeriodSeconds is %d, but a pod needs %d s to leave in good order" (int .terminationGracePeriodSeconds) (int $least)) -}}
{{- end -}}
{{- .terminationGracePeriodSeconds -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "agentrt.autoscaled" -}}
{{- with .Values.autoscaling -}}
{{- if and .hpa.enabled .keda.enabled -}}
{{- fail "autoscaling.hpa and autoscaling.keda are both enabled: two autoscalers on one Deployment fight" -}}
{{- end -}}
{{- if or .hpa.enabled .keda.enabled -}}true{{- end -}}
{{- end -}}
{{- end -}}

{{- define "agentrt.minPods" -}}
{{- if include "agentrt.autoscaled" . -}}{{ .Values.autoscaling.minReplicas }}{{- else -}}{{ .Values.replicas }}{{- end -}}
{{- end -}}
