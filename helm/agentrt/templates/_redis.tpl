{{- /* The URL of the state Redis without its credentials' values; $(…) is filled in by Kubernetes. */ -}}
{{- define "agentrt.redisUrl" -}}
{{- with .Values.redis -}}
{{- $credentials := "" -}}
{{- if or .passwordKey .username -}}
{{- $credentials = printf "%s:%s@" .username (ternary "$(REDIS_PASSWORD)" "" (ne .passwordKey "")) -}}
{{- end -}}
{{- $options := "" -}}
{{- if .tls.caSecret -}}{{- $options = "?ssl_ca_certs=/etc/agentrt/redis-ca/ca.crt" -}}{{- end -}}
{{- $plus := ternary "+tls" "" .tls.enabled -}}
{{- if .url -}}
{{- .url -}}
{{- else if eq .mode "builtin" -}}
redis://{{ $credentials }}{{ include "agentrt.fullname" $ }}-redis:{{ .port }}/{{ .database }}
{{- else if eq .mode "sentinel" -}}
{{- if not .hosts -}}{{- fail "redis.mode is sentinel: name the sentinels in redis.hosts" -}}{{- end -}}
{{ ternary "rediss" "redis" .tls.enabled }}+sentinel://{{ $credentials }}{{ join "," .hosts }}/{{ .masterName }}/{{ .database }}{{ $options }}
{{- else if eq .mode "cluster" -}}
{{- if not .hosts -}}{{- fail "redis.mode is cluster: name some nodes in redis.hosts" -}}{{- end -}}
{{ ternary "rediss" "redis" .tls.enabled }}+cluster://{{ $credentials }}{{ join "," .hosts }}{{ $options }}
{{- else -}}
{{- if not .host -}}{{- fail "say where Redis is: redis.host, redis.url, redis.existingSecret with redis.urlKey, or redis.mode=builtin" -}}{{- end -}}
{{ ternary "rediss" "redis" .tls.enabled }}://{{ $credentials }}{{ .host }}:{{ .port }}/{{ .database }}{{ $options }}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "agentrt.redisEnv" -}}
{{- with .Values.redis -}}
{{- if and (or .urlKey .passwordKey) (not .existingSecret) -}}
{{- fail "redis.urlKey and redis.passwordKey are keys of redis.existingSecret, which is empty" -}}
{{- end -}}
{{- if .urlKey }}
- name: AGENTRT_REDIS_URL
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .urlKey }}}
{{- else }}
{{- if .passwordKey }}
- name: REDIS_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .passwordKey }}}
{{- end }}
- name: AGENTRT_REDIS_URL
  value: {{ include "agentrt.redisUrl" $ | quote }}
{{- end }}
{{- end }}
{{- with .Values.locks }}
{{- if .existingSecret }}
- name: AGENTRT_LOCK_REDIS_URLS
  valueFrom:
    secretKeyRef: {name: {{ .existingSecret }}, key: {{ .urlsKey }}}
{{- else if .redisUrls }}
{{- if eq (mod (len .redisUrls) 2) 0 }}{{- fail "locks.redisUrls: a majority wants an odd number of masters" -}}{{- end }}
- name: AGENTRT_LOCK_REDIS_URLS
  value: {{ join "," .redisUrls | quote }}
{{- end }}
{{- end }}
{{- end -}}
