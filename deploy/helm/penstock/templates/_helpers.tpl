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

{{/* (dict "node" .Values.compactor.node "pool" true): what the records of cost say of the node. With "pool" it is of a pool of spot nodes. */}}
{{- define "penstock.node" -}}
{{- with .node.type }}
- { name: PENSTOCK_NODE_TYPE, value: {{ . | quote }} }
{{- end }}
{{- if or .pool (ne (toString .node.spot) "auto") }}
- { name: PENSTOCK_NODE_SPOT, value: {{ ternary "true" (toString .node.spot) (eq (toString .node.spot) "auto") | quote }} }
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

{{/*
(dict "root" $ "values" .Values.lander): where a pod may run. With "everyNode" it is one of each node, with "spread" (its selector) several of it are on several nodes, which a zone
that is asked for goes before.
*/}}
{{- define "penstock.placement" -}}
enableServiceLinks: false
nodeSelector: {{ merge (dict "kubernetes.io/os" "linux") (.values.nodeSelector | default dict) | toYaml | nindent 2 }}
{{- $spot := .values.spot | default false }}
{{- $pool := (.values.karpenter | default dict).enabled }}
{{- if or .values.tolerations $spot $pool }}
tolerations:
  {{- with .values.tolerations }}{{ toYaml . | nindent 2 }}{{ end }}
  {{- if $spot }}
  - { key: karpenter.sh/capacity-type, operator: Equal, value: spot, effect: NoSchedule }
  {{- end }}
  {{- if or $spot $pool }}
  - { key: penstock.io/compactor, operator: Exists, effect: NoSchedule }
  {{- end }}
{{- end }}
{{- if .values.affinity }}
affinity: {{ toYaml .values.affinity | nindent 2 }}
{{- else if .everyNode }}
# But what only stands for a node: it runs no pod of a DaemonSet.
affinity:
  nodeAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      nodeSelectorTerms:
        - matchExpressions:
            - { key: eks.amazonaws.com/compute-type, operator: NotIn, values: [fargate] }
            - { key: type, operator: NotIn, values: [virtual-kubelet] }
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
{{- with .spread }}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    # Those that it replaces do not count.
    matchLabelKeys: [pod-template-hash]
    labelSelector:
      matchLabels: {{ . | nindent 8 }}
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

{{/*
(dict "root" $ "file" "pipeline.yaml" "keys" (list "log" "meta")): restarts the pods that read this file, and have these URLs from the chart's Secret (without "keys" all
that is in it), when they change.
What changes in a Secret that is not the chart's is for its owner to tell them (docs/RUNBOOK.md).
*/}}
{{- define "penstock.sums" -}}
{{- with .file }}
checksum/config: {{ get (include (print $.root.Template.BasePath "/config.yaml") $.root | fromYaml).data . | sha256sum }}
{{- end }}
{{- if not .root.Values.existingSecret }}
{{- $all := merge (pick .root.Values "log" "store" "meta") .root.Values.s3 }}
{{- $has := dict }}
{{- range .keys | default (keys $all) }}{{ $_ := set $has . (get $all .) }}{{ end }}
checksum/secret: {{ toJson $has | sha256sum }}
{{- end }}
{{- end }}

{{/* What trusts a certificate authority of yours. */}}
{{- define "penstock.caEnv" -}}
{{- if or .Values.ca.configMap .Values.ca.secret }}
- { name: NODE_EXTRA_CA_CERTS, value: /etc/penstock-ca/ca.crt }
{{- end }}
{{- end }}

{{- define "penstock.caMount" -}}
{{- if or .Values.ca.configMap .Values.ca.secret }}
- { name: ca, mountPath: /etc/penstock-ca, readOnly: true }
{{- end }}
{{- end }}

{{- define "penstock.caVolume" -}}
{{- if .Values.ca.configMap }}
- { name: ca, configMap: { name: {{ .Values.ca.configMap }}, items: [{ key: ca.crt, path: ca.crt }] } }
{{- else if .Values.ca.secret }}
- { name: ca, secret: { secretName: {{ .Values.ca.secret }}, items: [{ key: ca.crt, path: ca.crt }] } }
{{- end }}
{{- end }}

{{/* Passwords as files, for what opens the log. */}}
{{- define "penstock.credentialsMount" -}}
{{- if .Values.credentials.secret }}
- { name: credentials, mountPath: /etc/penstock-credentials, readOnly: true }
{{- end }}
{{- end }}

{{- define "penstock.credentialsVolume" -}}
{{- with .Values.credentials.secret }}
- { name: credentials, secret: { secretName: {{ . }} } }
{{- end }}
{{- end }}

{{/* Of a container that works in folders of its node: their labels are not those of containers. */}}
{{- define "penstock.nodeSelinux" -}}
{{- with .Values.seLinuxOptions -}}
seLinuxOptions: {{ toJson . }}
{{- end }}
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

{{/* As fs-gateway/csi/identity.ts has it. */}}
{{- define "penstock.driver" -}}
penstock.csi
{{- end }}

{{/* The three of these take what `penstock.lakeClaim` takes. */}}
{{- define "penstock.lakeVolume" -}}
{{ printf "%s-%s-%s" (include "penstock.name" .root) .label .claim | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "penstock.lakeSource" -}}
driver: {{ include "penstock.driver" .root }}
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
