{{/* Names. A StatefulSet's may have 52 characters (its pods carry it, with a hash, in a label of 63): 24 of the
     installation, 10 of the component, 17 of the model. A name that is cut has a hash, so that two stay two. */}}
{{- define "driftloop.fullname" -}}
{{- $name := .Values.fullnameOverride | default (contains .Chart.Name .Release.Name | ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name)) -}}
{{- if gt (len $name) 24 -}}
{{- printf "%s-%s" ($name | trunc 15 | trimSuffix "-") ($name | sha256sum | trunc 8) -}}
{{- else -}}
{{- $name -}}
{{- end -}}
{{- end }}

{{/* What the components are called in values, and where they listen: the images' own ports. */}}
{{- define "driftloop.components" -}}
predictor: {values: predictor, port: 8000, management: 9000}
label-ingest: {values: labelIngest, port: 8001, management: 9001}
drift-monitor: {values: driftMonitor, port: 8002, management: 9002}
trainer: {values: trainer, port: 8003, management: 9003}
{{- end }}

{{/* What a template of a component is given: root, component, its values, its ports, its name and, of a predictor, the
     model. Called with a list: root, component and, of a predictor, the model. */}}
{{- define "driftloop.component" -}}
{{- $root := index . 0 -}}
{{- $component := index . 1 -}}
{{- $model := "" -}}
{{- if gt (len .) 2 -}}{{- $model = (index . 2).name -}}{{- end -}}
{{- $about := index (fromYaml (include "driftloop.components" $root)) $component -}}
component: {{ $component }}
model: {{ $model | quote }}
name: {{ include "driftloop.fullname" $root }}-{{ $component }}{{ with $model }}-{{ . }}{{ end }}
serviceAccount: {{ include "driftloop.fullname" $root }}-{{ $component }}
key: {{ $about.values }}
port: {{ $about.port }}
management: {{ $about.management }}
{{- end }}

{{/* Labels that never change, for a selector is not allowed to. Called with a list: root, component, model. */}}
{{- define "driftloop.selectorLabels" -}}
{{- $root := index . 0 -}}
app.kubernetes.io/name: {{ $root.Chart.Name }}
app.kubernetes.io/instance: {{ $root.Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- if gt (len .) 2 }}{{ with index . 2 }}
driftloop/model: {{ . }}
{{- end }}{{ end }}
{{- end }}

{{- define "driftloop.labels" -}}
{{- $root := index . 0 -}}
{{ include "driftloop.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Values.image.tag | default $root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: driftloop
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- with $root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Pods of this installation: what the policy of the network is about. The operators' pods may carry its labels, too. */}}
{{- define "driftloop.pods" -}}
matchLabels:
  app.kubernetes.io/name: {{ .Chart.Name }}
  app.kubernetes.io/instance: {{ .Release.Name }}
matchExpressions:
  - {key: app.kubernetes.io/component, operator: In, values: [predictor, label-ingest, drift-monitor, trainer, replay, restored, test]}
{{- end }}

{{/* Called with a list: root, the image of a component. */}}
{{- define "driftloop.image" -}}
{{- $root := index . 0 -}}
{{- $image := index . 1 -}}
{{- with $root.Values.image.registry }}{{ . }}/{{ end -}}
{{- $image.repository -}}
{{- if $image.digest }}@{{ $image.digest }}{{ else }}:{{ $image.tag | default $root.Values.image.tag | default $root.Chart.AppVersion }}{{ end -}}
{{- end }}

{{- define "driftloop.podSecurity" -}}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "driftloop.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{/* The brokers, whoever runs them. */}}
{{- define "driftloop.kafka" -}}
{{- $fullname := include "driftloop.fullname" . -}}
{{- if .Values.strimzi.enabled -}}
bootstrapServers: {{ $fullname }}-kafka-bootstrap:9093
securityProtocol: SASL_SSL
sasl: {mechanism: SCRAM-SHA-512, username: {{ $fullname }}, existingSecret: {{ $fullname }}, passwordKey: password}
tls: {caSecret: {{ $fullname }}-cluster-ca-cert, caKey: ca.crt, clientSecret: "", endpointIdentification: https}
{{- else -}}
{{ toYaml .Values.kafka }}
{{- end -}}
{{- end }}

{{- define "driftloop.kafkaEnv" -}}
{{- $kafka := fromYaml (include "driftloop.kafka" .) -}}
- {name: KAFKA_BOOTSTRAP_SERVERS, value: {{ $kafka.bootstrapServers | quote }}}
- {name: KAFKA_SECURITY_PROTOCOL, value: {{ $kafka.securityProtocol }}}
{{- if hasPrefix "SASL" $kafka.securityProtocol }}
- {name: KAFKA_SASL_MECHANISM, value: {{ required "kafka.sasl.mechanism: name one where kafka.securityProtocol begins with SASL" $kafka.sasl.mechanism }}}
- {name: KAFKA_SASL_USERNAME, value: {{ required "kafka.sasl.username: name one where kafka.securityProtocol begins with SASL" $kafka.sasl.username | quote }}}
- {name: KAFKA_SASL_PASSWORD_FILE, value: /secrets/kafka/password}
{{- end }}
{{- if and $kafka.tls.caSecret (hasSuffix "SSL" $kafka.securityProtocol) }}
- {name: KAFKA_SSL_CA_LOCATION, value: /secrets/kafka/ca.crt}
{{- end }}
{{- if and $kafka.tls.clientSecret (hasSuffix "SSL" $kafka.securityProtocol) }}
- {name: KAFKA_SSL_CERTIFICATE_LOCATION, value: /secrets/kafka/tls.crt}
- {name: KAFKA_SSL_KEY_LOCATION, value: /secrets/kafka/tls.key}
{{- end }}
{{- if and (eq $kafka.tls.endpointIdentification "none") (hasSuffix "SSL" $kafka.securityProtocol) }}
- {name: KAFKA_SSL_ENDPOINT_IDENTIFICATION, value: none}
{{- end }}
{{- end }}

{{/* The volume of what the brokers ask for, and where it is mounted: empty where they ask for nothing. */}}
{{- define "driftloop.kafkaVolume" -}}
{{- $kafka := fromYaml (include "driftloop.kafka" .) -}}
{{- $sasl := hasPrefix "SASL" $kafka.securityProtocol -}}
{{- $tls := hasSuffix "SSL" $kafka.securityProtocol -}}
{{- if or $sasl (and $tls $kafka.tls.caSecret) (and $tls $kafka.tls.clientSecret) -}}
- name: kafka
  projected:
    defaultMode: 0440
    sources:
      {{- if $sasl }}
      - secret:
          name: {{ required "kafka.sasl.existingSecret: name the Secret with the password" $kafka.sasl.existingSecret }}
          items: [{key: {{ $kafka.sasl.passwordKey }}, path: password}]
      {{- end }}
      {{- if and $tls $kafka.tls.caSecret }}
      - secret:
          name: {{ $kafka.tls.caSecret }}
          items: [{key: {{ $kafka.tls.caKey }}, path: ca.crt}]
      {{- end }}
      {{- if and $tls $kafka.tls.clientSecret }}
      - secret:
          name: {{ $kafka.tls.clientSecret }}
          items: [{key: {{ $kafka.tls.clientCertificateKey }}, path: tls.crt}, {key: {{ $kafka.tls.clientKeyKey }}, path: tls.key}]
      {{- end }}
{{- end }}
{{- end }}

{{- define "driftloop.kafkaMount" -}}
{{- if include "driftloop.kafkaVolume" . -}}
- {name: kafka, mountPath: /secrets/kafka, readOnly: true}
{{- end }}
{{- end }}

{{/* The database, whoever runs it. */}}
{{- define "driftloop.postgres" -}}
{{- if .Values.cnpg.enabled -}}
{{- $cluster := printf "%s-postgres" (include "driftloop.fullname" .) -}}
sslMode: verify-full
caSecret: {{ $cluster }}-ca
caKey: ca.crt
adminSecret: {{ $cluster }}-app
adminKey: uri
{{- else -}}
sslMode: {{ .Values.postgres.sslMode | quote }}
caSecret: {{ .Values.postgres.caSecret | quote }}
caKey: {{ .Values.postgres.caKey }}
adminSecret: {{ .Values.secrets.admin }}
adminKey: database-url
{{- end -}}
{{- end }}

{{/* libpq's own variables: what a URL does not say. */}}
{{- define "driftloop.postgresEnv" -}}
{{- $postgres := fromYaml (include "driftloop.postgres" .) -}}
{{- with $postgres.sslMode }}
- {name: PGSSLMODE, value: {{ . }}}
{{- end }}
{{- if $postgres.caSecret }}
- {name: PGSSLROOTCERT, value: /secrets/postgres/ca.crt}
{{- end }}
{{- end }}

{{- define "driftloop.postgresVolume" -}}
{{- $postgres := fromYaml (include "driftloop.postgres" .) -}}
{{- if $postgres.caSecret -}}
- name: postgres
  secret: {secretName: {{ $postgres.caSecret }}, defaultMode: 0440, items: [{key: {{ $postgres.caKey }}, path: ca.crt}]}
{{- end }}
{{- end }}

{{- define "driftloop.postgresMount" -}}
{{- if include "driftloop.postgresVolume" . -}}
- {name: postgres, mountPath: /secrets/postgres, readOnly: true}
{{- end }}
{{- end }}

{{- define "driftloop.namespaceEnv" -}}
- {name: DRIFTLOOP_NAMESPACE, value: {{ .Values.namespace | quote }}}
{{- end }}

{{/* What every service is told. */}}
{{- define "driftloop.commonEnv" -}}
{{ include "driftloop.namespaceEnv" . }}
- {name: DRIFTLOOP_LOG_LEVEL, value: {{ .Values.logLevel }}}
{{- end }}

{{/* A value as a text. Numbers come as floats, whose text has an exponent from a million on. */}}
{{- define "driftloop.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) }}{{ int64 . }}{{ else }}{{ . }}{{ end -}}
{{- end }}

{{/* Settings that the user gives: the component's win. Called with a list: root, the component's values. */}}
{{- define "driftloop.settings" -}}
{{- $root := index . 0 -}}
{{- range $name, $value := merge (dict) (index . 1).settings $root.Values.settings }}
- {name: {{ $name }}, value: {{ include "driftloop.text" $value | quote }}}
{{- end }}
{{- end }}

{{/* Schemas and topics, before a service starts, in every pod: both commands wait for each other and change nothing that
     is there. A Helm hook could not do it: before the installation there is no Secret, and after it `--wait` never ends. */}}
{{- define "driftloop.migrate" -}}
{{- if .Values.migrations.enabled -}}
- name: migrate
  image: {{ include "driftloop.image" (list . .Values.operator.image) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [driftloop, migrate]
  env:
    {{- include "driftloop.namespaceEnv" . | nindent 4 }}
    - {name: DATABASE_URL_FILE, value: /secrets/admin/database-url}
    {{- range $service := list "label_ingest" "drift_monitor" "trainer" }}
    - {name: DRIFTLOOP_{{ upper $service }}_DB_PASSWORD_FILE, value: /secrets/admin/{{ $service }}-password}
    {{- end }}
    {{- include "driftloop.postgresEnv" . | nindent 4 }}
  {{- include "driftloop.containerSecurity" . | nindent 2 }}
  resources:
    {{- toYaml .Values.operator.resources | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: admin, mountPath: /secrets/admin, readOnly: true}
    {{- include "driftloop.postgresMount" . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "driftloop.adminVolume" -}}
{{- if .Values.migrations.enabled -}}
{{- $postgres := fromYaml (include "driftloop.postgres" .) -}}
- name: admin
  projected:
    defaultMode: 0440
    sources:
      - secret:
          name: {{ $postgres.adminSecret }}
          items: [{key: {{ $postgres.adminKey }}, path: database-url}]
      - secret:
          name: {{ .Values.secrets.admin }}
          items:
            {{- range $service := list "label_ingest" "drift_monitor" "trainer" }}
            - {key: {{ $service }}-password, path: {{ $service }}-password}
            {{- end }}
{{- end }}
{{- end }}

{{- define "driftloop.topics" -}}
{{- if and .Values.topics.create (not .Values.strimzi.enabled) -}}
- name: topics
  image: {{ include "driftloop.image" (list . .Values.operator.image) }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  args: [driftloop, topics, "--replication={{ .Values.topics.replication }}"]
  env:
    {{- include "driftloop.namespaceEnv" . | nindent 4 }}
    {{- include "driftloop.kafkaEnv" . | nindent 4 }}
  {{- include "driftloop.containerSecurity" . | nindent 2 }}
  resources:
    {{- toYaml .Values.operator.resources | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    {{- include "driftloop.kafkaMount" . | nindent 4 }}
{{- end }}
{{- end }}

{{- define "driftloop.prepare" -}}
{{- list (include "driftloop.migrate" .) (include "driftloop.topics" .) | compact | join "\n" -}}
{{- end }}

{{/* The data of a model's ConfigMap: the contract, and the baseline under the name that the contract gives it. Called
     with a list: root, model. */}}
{{- define "driftloop.modelData" -}}
{{- $root := index . 0 -}}
{{- $model := index . 1 -}}
{{- $folder := printf "files/models/%s" $model.name -}}
{{- $contract := $model.contract | default ($root.Files.Get (printf "%s/contract.yaml" $folder)) -}}
{{- if not $contract -}}
{{- fail (printf "models: %s has no contract: give contract, existingConfigMap or existingClaim" $model.name) -}}
{{- end -}}
{{- $file := (fromYaml $contract | default dict).baseline | default dict -}}
{{- $path := $file.path | default "" -}}
{{- if or (not $path) (contains "/" $path) -}}
{{- fail (printf "models: the contract of %s must be YAML whose baseline.path names a file beside it, such as baseline.csv" $model.name) -}}
{{- end -}}
{{- $baseline := $model.baseline | default ($root.Files.Get (printf "%s/%s" $folder $path)) -}}
{{- if not $baseline -}}
{{- fail (printf "models: %s has no baseline: give it (--set-file), or an existingConfigMap or existingClaim with %s" $model.name $path) -}}
{{- end -}}
{{- toYaml (dict "contract.yaml" $contract $path $baseline) -}}
{{- end }}

{{- define "driftloop.modelVolume" -}}
{{- $root := index . 0 -}}
{{- $model := index . 1 -}}
- name: model-{{ $model.name }}
  {{- if $model.existingClaim }}
  persistentVolumeClaim: {claimName: {{ $model.existingClaim }}, readOnly: true}
  {{- else }}
  configMap: {name: {{ $model.existingConfigMap | default (printf "%s-model-%s" (include "driftloop.fullname" $root) $model.name) }}}
  {{- end }}
{{- end }}

{{- define "driftloop.modelChecksums" -}}
{{- $root := index . 0 -}}
{{- range index . 1 }}
{{- if not (or .existingConfigMap .existingClaim) }}
checksum/model-{{ .name }}: {{ include "driftloop.modelData" (list $root .) | sha256sum }}
{{- end }}
{{- end }}
{{- end }}

{{- define "driftloop.contracts" -}}
{{- range $place, $model := .Values.models }}{{ if $place }},{{ end }}/models/{{ $model.name }}/contract.yaml{{ end -}}
{{- end }}

{{/* Where versions are kept. */}}
{{- define "driftloop.onVolume" -}}
{{- if not .Values.artifacts.uri }}true{{ end -}}
{{- end }}

{{/* A volume that one node alone may mount has all pods that mount it on that node. */}}
{{- define "driftloop.oneNode" -}}
{{- if and (include "driftloop.onVolume" .) (ne .Values.artifacts.persistence.accessMode "ReadWriteMany") }}true{{ end -}}
{{- end }}

{{- define "driftloop.artifactsVolume" -}}
- name: artifacts
  persistentVolumeClaim: {claimName: {{ .Values.artifacts.persistence.existingClaim | default (printf "%s-artifacts" (include "driftloop.fullname" .)) }}}
{{- end }}

{{/* Called with a list: root, the Secret of this component's credentials. */}}
{{- define "driftloop.s3Env" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.artifacts.s3 }}
{{- if .endpoint }}
- {name: AWS_ENDPOINT_URL, value: {{ .endpoint | quote }}}
{{- end }}
{{- if .region }}
- {name: AWS_DEFAULT_REGION, value: {{ .region | quote }}}
{{- end }}
{{- end }}
{{- if index . 1 }}
- {name: AWS_SHARED_CREDENTIALS_FILE, value: /secrets/s3/credentials}
{{- end }}
{{- end }}

{{- define "driftloop.s3Volume" -}}
{{- $root := index . 0 -}}
{{- if index . 1 -}}
- name: s3
  secret: {secretName: {{ index . 1 }}, defaultMode: 0440, items: [{key: {{ $root.Values.artifacts.s3.credentialsKey }}, path: credentials}]}
{{- end }}
{{- end }}

{{- define "driftloop.s3Mount" -}}
{{- if index . 1 -}}
- {name: s3, mountPath: /secrets/s3, readOnly: true}
{{- end }}
{{- end }}

{{/* Called with a list: root, name of the volume, name of the Secret. */}}
{{- define "driftloop.secretVolume" -}}
- name: {{ index . 1 }}
  secret: {secretName: {{ index . 2 }}, defaultMode: 0440}
{{- end }}

{{/* Where a pod may run. Called with a list: root, component as `driftloop.component` gives it. */}}
{{- define "driftloop.placement" -}}
{{- $root := index . 0 -}}
{{- $about := index . 1 -}}
{{- $values := index $root.Values $about.key -}}
{{- $shared := and (include "driftloop.oneNode" $root) (ne $about.component "label-ingest") -}}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- if $shared }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
      - topologyKey: kubernetes.io/hostname
        labelSelector:
          matchLabels:
            app.kubernetes.io/instance: {{ $root.Release.Name }}
            driftloop/artifacts: volume
{{- else if $root.Values.topologySpread.enabled }}
topologySpreadConstraints:
  {{- range list "topology.kubernetes.io/zone" "kubernetes.io/hostname" }}
  - maxSkew: 1
    topologyKey: {{ . }}
    whenUnsatisfiable: {{ $root.Values.topologySpread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "driftloop.selectorLabels" (list $root $about.component $about.model) | nindent 8 }}
    # Each roll-out is spread by itself: the pods that it replaces do not count.
    matchLabelKeys: [{{ eq $about.component "predictor" | ternary "controller-revision-hash" "pod-template-hash" }}]
  {{- end }}
{{- end }}
{{- end }}

{{- define "driftloop.podMetadata" -}}
{{- $root := index . 0 -}}
{{- $about := index . 1 -}}
{{- $values := index $root.Values $about.key -}}
labels:
  {{- include "driftloop.selectorLabels" (list $root $about.component $about.model) | nindent 2 }}
  {{- if and (include "driftloop.oneNode" $root) (ne $about.component "label-ingest") }}
  driftloop/artifacts: volume
  {{- end }}
  {{- with $root.Values.commonLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
annotations:
  kubectl.kubernetes.io/default-container: {{ $about.component }}
  {{- include "driftloop.modelChecksums" (list $root (index . 2)) | nindent 2 }}
  {{- with $values.podAnnotations }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}

{{/* What the container of every service has. */}}
{{- define "driftloop.container" -}}
{{- $root := index . 0 -}}
{{- $about := index . 1 -}}
{{- $values := index $root.Values $about.key -}}
name: {{ $about.component }}
image: {{ include "driftloop.image" (list $root $values.image) }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
{{ include "driftloop.containerSecurity" $root }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
# A service waits a minute for its database and another for its topics before it ends and says which.
startupProbe:
  httpGet: {path: /healthz, port: management}
  periodSeconds: 2
  failureThreshold: 90
livenessProbe:
  httpGet: {path: /healthz, port: management}
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet: {path: /readyz, port: management}
  periodSeconds: 5
  timeoutSeconds: 5
{{- if not (hasKey $values "drainSeconds") }}
lifecycle:
  # Proxies go on sending to a pod that ends until they have heard of it; this service does not wait for them by itself.
  preStop: {sleep: {seconds: 5}}
{{- end }}
{{- end }}

{{/* A Service of the API, and one of the management port that names pods which are not ready, too. Called with a list:
     root, component. */}}
{{- define "driftloop.services" -}}
{{- $root := index . 0 -}}
{{- $about := index . 1 -}}
{{- $values := index $root.Values $about.key -}}
apiVersion: v1
kind: Service
metadata:
  name: {{ $about.name }}
  labels:
    {{- include "driftloop.labels" (list $root $about.component $about.model) | nindent 4 }}
  {{- with $values.service.annotations }}
  annotations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
spec:
  type: {{ $values.service.type }}
  selector:
    {{- include "driftloop.selectorLabels" (list $root $about.component $about.model) | nindent 4 }}
  ports:
    - {name: http, port: {{ $values.service.port | default $about.port }}, targetPort: http}
    {{- if and $values.mllp ($values.mllp | default dict).enabled }}
    - {name: mllp, port: {{ $values.mllp.port }}, targetPort: mllp}
    {{- end }}
---
apiVersion: v1
kind: Service
metadata:
  name: {{ $about.name }}-management
  labels:
    {{- include "driftloop.labels" (list $root $about.component $about.model) | nindent 4 }}
    driftloop/service: management
spec:
  clusterIP: None
  publishNotReadyAddresses: true
  selector:
    {{- include "driftloop.selectorLabels" (list $root $about.component $about.model) | nindent 4 }}
  ports:
    - {name: management, port: {{ $about.management }}, targetPort: management}
{{- end }}
