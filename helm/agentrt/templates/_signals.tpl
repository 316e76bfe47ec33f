{{- /*
The signals that an autoscaler may read: a JSON list of {name, metric, query, target, type}. One table for the HPA, the rules
of prometheus-adapter and KEDA. Each query gives exactly one element, also when nothing happens; gauges of the whole
deployment, which every pod exports, are max()-ed; totals are for AverageValue, since Value compounds with the replicas.
`>= 0` lets go of NaN, which pods say when they do not know: prometheus-adapter would make a number of it, and scale in.
*/ -}}
{{- define "agentrt.signals" -}}
{{- $in := printf "service=\"%s\"" (include "agentrt.fullname" .) -}}
{{- $runs := int (default "256" (index .Values.config "AGENTRT_MAX_RUNS")) -}}
{{- $signals := list -}}
{{- with .Values.autoscaling.signals -}}
{{- if .queueDepth.enabled -}}
{{- $signals = append $signals (dict "name" "queue-depth" "metric" "agentrt_queue_depth" "series" "agentrt_queue_depth" "query" "max(agentrt_queue_depth{%s} >= 0)" "target" .queueDepth.target "json" "depth") -}}
{{- end -}}
{{- if .queueAge.enabled -}}
{{- $signals = append $signals (dict "name" "queue-age" "metric" "agentrt_queue_oldest_seconds" "series" "agentrt_queue_oldest_seconds" "query" "max(agentrt_queue_oldest_seconds{%s} >= 0)" "target" .queueAge.target "json" "oldest_seconds") -}}
{{- end -}}
{{- if .occupancy.enabled -}}
{{- $target := default (toString (max 1 (div (mul $runs 7) 10))) .occupancy.target -}}
{{- $signals = append $signals (dict "name" "occupancy" "metric" "agentrt_runs_in_flight_total" "series" "agentrt_runs_in_flight" "query" "sum(agentrt_runs_in_flight{%s} >= 0)" "target" $target) -}}
{{- end -}}
{{- if .redisWaiting.enabled -}}
{{- $signals = append $signals (dict "name" "redis-waiting" "metric" "agentrt_redis_waiting_units_total" "series" "agentrt_redis_waiting_units" "query" "sum(agentrt_redis_waiting_units{%s} >= 0)" "target" .redisWaiting.target) -}}
{{- end -}}
{{- if .latency.enabled -}}
{{- $query := "(histogram_quantile(0.95, sum by (le) (rate(agentrt_first_token_seconds_bucket{%s}[5m]))) >= 0) or vector(0)" -}}
{{- $signals = append $signals (dict "name" "latency" "metric" "agentrt_first_token_p95_seconds" "series" "agentrt_first_token_seconds_bucket" "query" $query "target" .latency.target "value" true) -}}
{{- end -}}
{{- end -}}
{{- if not $signals -}}{{- fail "autoscaling is on, but every autoscaling.signals is off" -}}{{- end -}}
{{- dict "in" $in "signals" $signals | toJson -}}
{{- end -}}
