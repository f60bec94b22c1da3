{{- define "bidiway.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "bidiway.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- else if contains (include "bidiway.name" .) .Release.Name -}}
{{- .Release.Name | trunc 52 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "bidiway.name" .) | trunc 52 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "bidiway.selector" -}}
app.kubernetes.io/name: {{ include "bidiway.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "bidiway.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "bidiway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "bidiway.serviceAccount" -}}
{{- default (include "bidiway.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "bidiway.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}
{{- end -}}

{{- define "bidiway.tlsSecret" -}}
{{- default (printf "%s-tls" (include "bidiway.fullname" .)) .Values.tls.existingSecret -}}
{{- end -}}

{{- define "bidiway.peersSecret" -}}
{{- default (printf "%s-peers" (include "bidiway.fullname" .)) .Values.peers.existingSecret -}}
{{- end -}}

{{- define "bidiway.port" -}}
{{- if .Values.tls.enabled }}8443{{ else }}8080{{ end -}}
{{- end -}}

{{- /* bidiway.yaml: what the chart knows, and over it what `config` says. */ -}}
{{- define "bidiway.config" -}}
{{- $listener := dict "address" (printf "[::]:%s" (include "bidiway.port" .)) -}}
{{- if .Values.tls.enabled -}}
{{- $certificate := dict "chain" "/etc/bidiway/tls/tls.crt" "key" "/etc/bidiway/tls/tls.key" -}}
{{- $_ := set $listener "tls" (dict "certificates" (list $certificate)) -}}
{{- end -}}
{{- $drain := dict "grace" (printf "%ds" (int .Values.drain.grace)) "spread" (printf "%ds" (int .Values.drain.spread)) "timeout" (printf "%ds" (int .Values.drain.timeout)) -}}
{{- $config := dict "listeners" (list $listener) "admin" (dict "address" "[::]:9901") "drain" $drain "log" (dict "format" "json") -}}
{{- if gt (int .Values.workers) 0 -}}
{{- $_ := set $config "workers" (int .Values.workers) -}}
{{- end -}}
{{- if .Values.peers.enabled -}}
{{- $tls := dict "ca" "/etc/bidiway/peers/ca.crt" "certificate" "/etc/bidiway/peers/tls.crt" "key" "/etc/bidiway/peers/tls.key" "server_name" "bidiway-peers" -}}
{{- $peers := dict "listen" "[::]:7443" "addresses" (list (printf "%s-peers:7443" (include "bidiway.fullname" .))) "tls" $tls -}}
{{- $_ := set $config "session" (dict "peers" $peers) -}}
{{- end -}}
{{- toYaml (mergeOverwrite $config (deepCopy .Values.config)) -}}
{{- end -}}

{{- /* What of it needs a restart. Listeners as a whole: their tls does not, but changes rarely but for its files. */ -}}
{{- define "bidiway.restart" -}}
{{- $config := include "bidiway.config" . | fromYaml -}}
{{- $restart := pick $config "listeners" "admin" "workers" "drain" "instance" -}}
{{- $_ := set $restart "peers" (dig "session" "peers" "listen" "" $config) -}}
{{- $_ := set $restart "format" (dig "log" "format" "" $config) -}}
{{- toYaml $restart -}}
{{- end -}}
