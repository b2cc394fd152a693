{{- define "penstock.name" -}}
{{- if contains "penstock" .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-penstock" .Release.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "penstock.labels" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* (dict "root" $ "component" "lander") */}}
{{- define "penstock.selector" -}}
app.kubernetes.io/name: penstock
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "penstock.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}{{ else }}{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- define "penstock.secret" -}}
{{- if .Values.existingSecret -}}
{{ .Values.existingSecret }}
{{- else -}}
{{- if or (not .Values.log) (not .Values.store) (not .Values.meta) -}}
{{ fail "log, store and meta are needed: --set log=kafka://HOST:9092,store=s3://BUCKET/PREFIX?region=R,meta=redis://HOST:6379/0, or existingSecret=NAME with these keys" }}
{{- end -}}
{{ include "penstock.name" . }}
{{- end }}
{{- end }}

{{/* HOST:PORT,... of Kafka, for what cannot read it from the Secret. */}}
{{- define "penstock.brokers" -}}
{{- $brokers := .Values.lander.keda.bootstrapServers | default (regexReplaceAll "^kafka://([^@]*@)?([^/?]*).*$" .Values.log "${2}") -}}
{{- if not $brokers -}}
{{ fail "KEDA asks Kafka itself: --set lander.keda.bootstrapServers=HOST:9092 (the Secret's URL is not for it)" }}
{{- end -}}
{{ $brokers }}
{{- end }}

{{/* The ports, from the Secret. `optional` keys are those of the AWS chain's first link. */}}
{{- define "penstock.env" -}}
{{- range $variable, $key := dict "PENSTOCK_LOG" "log" "PENSTOCK_STORE" "store" "PENSTOCK_META" "meta" }}
- name: {{ $variable }}
  valueFrom: { secretKeyRef: { name: {{ include "penstock.secret" $ }}, key: {{ $key }} } }
{{- end }}
{{- range $variable, $key := dict "AWS_ACCESS_KEY_ID" "accessKeyId" "AWS_SECRET_ACCESS_KEY" "secretAccessKey" }}
- name: {{ $variable }}
  valueFrom: { secretKeyRef: { name: {{ include "penstock.secret" $ }}, key: {{ $key }}, optional: true } }
{{- end }}
{{- end }}

{{/* Where traces of single readings go, for what carries readings. */}}
{{- define "penstock.tracing" -}}
{{- with .Values.monitoring.traces.endpoint }}
- { name: OTEL_EXPORTER_OTLP_ENDPOINT, value: {{ . | quote }} }
{{- end }}
{{- end }}

{{/* Everything but what mounts: no root, nothing to write to but what is mounted for it. */}}
{{- define "penstock.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "penstock.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{- define "penstock.container" -}}
image: {{ include "penstock.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
{{- end }}

{{/* (dict "root" $ "values" .Values.lander): where a pod may run. */}}
{{- define "penstock.placement" -}}
{{- with .values.nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- $spot := .values.spot | default false }}
{{- if or .values.tolerations $spot }}
tolerations:
  {{- with .values.tolerations }}{{ toYaml . | nindent 2 }}{{ end }}
  {{- if $spot }}
  - { key: karpenter.sh/capacity-type, operator: Equal, value: spot, effect: NoSchedule }
  - { key: penstock.io/compactor, operator: Exists, effect: NoSchedule }
  {{- end }}
{{- end }}
{{- if .values.affinity }}
affinity: {{ toYaml .values.affinity | nindent 2 }}
{{- else if or .root.Values.zone $spot }}
affinity:
  nodeAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
      {{- with .root.Values.zone }}
      - weight: 100
        preference: { matchExpressions: [{ key: topology.kubernetes.io/zone, operator: In, values: [{{ . | quote }}] }] }
      {{- end }}
      {{- if $spot }}
      - weight: 50
        preference: { matchExpressions: [{ key: karpenter.sh/capacity-type, operator: In, values: [spot] }] }
      - weight: 50
        preference: { matchExpressions: [{ key: eks.amazonaws.com/capacityType, operator: In, values: [SPOT] }] }
      {{- end }}
{{- end }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .root.Values.dns.ndots }}
dnsConfig: { options: [{ name: ndots, value: {{ . | quote }} }] }
{{- end }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "penstock.runtimeClass" -}}
{{- with .Values.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end }}

{{/* Restarts the pods that read it when it changes. */}}
{{- define "penstock.configSum" -}}
checksum/config: {{ include (print $.Template.BasePath "/config.yaml") . | sha256sum }}
{{- end }}

{{/* Of the storage class. */}}
{{- define "penstock.classParameters" -}}
{{- range $step := list "provisioner" "controller-expand" "node-stage" "node-publish" }}
csi.storage.k8s.io/{{ $step }}-secret-name: {{ include "penstock.secret" $ }}
csi.storage.k8s.io/{{ $step }}-secret-namespace: {{ $.Release.Namespace }}
{{- end }}
{{- range $key, $value := .Values.csi.storageClass.parameters }}
{{ $key }}: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "penstock.lifecycleModes" -}}
[{{ ternary "Persistent, Ephemeral" "Persistent" .Values.csi.inline.enabled }}]
{{- end }}

{{/* The three of these take what `penstock.lakeClaim` takes. */}}
{{- define "penstock.lakeVolume" -}}
{{ printf "%s-%s-%s" (include "penstock.name" .root) .label .claim | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "penstock.lakeSource" -}}
driver: {{ .root.Values.csi.driverName }}
volumeHandle: 'penstock:{{ .root.Values.volume.name }}#{{ .label | trunc 32 }}'
readOnly: true
{{- with .subPath }}
volumeAttributes: { subPath: {{ . | quote }} }
{{- end }}
nodeStageSecretRef: { name: {{ include "penstock.secret" .root }}, namespace: {{ .root.Release.Namespace }} }
nodePublishSecretRef: { name: {{ include "penstock.secret" .root }}, namespace: {{ .root.Release.Namespace }} }
{{- end }}

{{/* What to delete where the cluster has another one, which cannot be changed. */}}
{{- define "penstock.lakeStale" -}}
{{- $name := include "penstock.lakeVolume" . }}
{{- with (lookup "v1" "PersistentVolume" "" $name) }}
{{- if not (deepEqual .spec.csi (include "penstock.lakeSource" $ | fromYaml)) }}
kubectl -n {{ $.namespace }} delete persistentvolumeclaim {{ $.claim }}
kubectl delete persistentvolume {{ $name }}
{{- end }}
{{- end }}
{{- end }}

{{/* (dict "root" $ "namespace" "a" "label" "a" "claim" "lake" "subPath" ""): the lake, read-only, as a volume of a namespace. */}}
{{- define "penstock.lakeClaim" }}
{{- $name := include "penstock.lakeVolume" . }}
apiVersion: v1
kind: PersistentVolume
metadata:
  name: {{ $name }}
  labels: {{ include "penstock.labels" .root | nindent 4 }}
spec:
  accessModes: [ReadOnlyMany]
  # What Kubernetes wants to read; the lake has no bound of its own.
  capacity: { storage: 1Ti }
  persistentVolumeReclaimPolicy: Retain
  storageClassName: ''
  claimRef: { namespace: {{ .namespace }}, name: {{ .claim }} }
  csi: {{ include "penstock.lakeSource" . | nindent 4 }}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  name: {{ .claim }}
  namespace: {{ .namespace }}
  labels: {{ include "penstock.labels" .root | nindent 4 }}
spec:
  accessModes: [ReadOnlyMany]
  storageClassName: ''
  volumeName: {{ $name }}
  resources: { requests: { storage: 1Ti } }
{{- end }}
