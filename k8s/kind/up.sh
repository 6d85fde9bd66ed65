#!/usr/bin/env bash
# Percolate in a kind cluster of three zones: registry, image, Istio, KEDA, Prometheus, NATS, object store, Percolate, a smoke test. Run it again after a change: what is there stays (cluster, secrets, data), the image is built, pushed and pulled anew, and everything of Percolate starts again. Not run yet: see docs/operations.md.
#   k8s/kind/up.sh [--dry-run]
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
# shellcheck source=k8s/kind/versions.env
source "$here/versions.env"
# shellcheck source=k8s/kind/random.sh
source "$here/random.sh"

DRY_RUN=${DRY_RUN:-}
[[ ${1:-} == --dry-run ]] && DRY_RUN=1
CLUSTER=percolate
REGISTRY=percolate-registry
IMAGE=localhost:5001/percolate:dev

say() { printf '· %s\n' "$*"; }
run() {
  if [[ -n $DRY_RUN ]]; then printf '  %s\n' "$*"; else "$@"; fi
}
# Applies what comes on standard input.
apply() {
  if [[ -n $DRY_RUN ]]; then
    echo '  kubectl apply -f -'
    cat > /dev/null
  else
    kubectl --context "kind-$CLUSTER" apply -f -
  fi
}
k() { run kubectl --context "kind-$CLUSTER" "$@"; }
h() { run helm --kube-context "kind-$CLUSTER" "$@"; }
# Makes a Secret of the lines `key=value` on standard input: they are seen neither by ps nor in a dry run.
secret() {
  if [[ -n $DRY_RUN ]]; then
    echo "  kubectl -n percolate create secret generic $1 ($(cut -d= -f1 | tr '\n' ' '))"
  else
    kubectl --context "kind-$CLUSTER" -n percolate create secret generic "$1" --from-env-file=/dev/stdin
  fi
}

if [[ -z $DRY_RUN ]]; then
  for tool in docker kind kubectl helm openssl curl; do
    command -v "$tool" > /dev/null || {
      echo "up.sh: $tool is not installed." >&2
      exit 1
    }
  done
fi

say 'a registry on localhost:5001'
if [[ -n $DRY_RUN ]] || ! docker inspect "$REGISTRY" > /dev/null 2>&1; then
  run docker run -d --restart=always -p 127.0.0.1:5001:5000 --name "$REGISTRY" "$REGISTRY_IMAGE"
fi

say "a cluster of three zones ($KIND_NODE_IMAGE)"
if [[ -n $DRY_RUN ]] || ! kind get clusters | grep -qx "$CLUSTER"; then
  run kind create cluster --config "$here/cluster.yaml" --image "$KIND_NODE_IMAGE" --wait 180s
fi
if [[ -z $DRY_RUN ]]; then
  docker network connect kind "$REGISTRY" 2> /dev/null || true
  for node in $(kind get nodes --name "$CLUSTER"); do
    docker exec "$node" mkdir -p /etc/containerd/certs.d/localhost:5001
    printf '[host."http://%s:5000"]\n' "$REGISTRY" | docker exec -i "$node" tee /etc/containerd/certs.d/localhost:5001/hosts.toml > /dev/null
  done
fi

say 'the image'
run docker build -t "$IMAGE" "$root"
run docker push "$IMAGE"

say "Istio $ISTIO_VERSION, with its CNI plugin: the namespace forbids privileged containers"
h repo add istio https://istio-release.storage.googleapis.com/charts --force-update
h upgrade --install istio-base istio/base -n istio-system --create-namespace --version "$ISTIO_VERSION" --wait
h upgrade --install istio-cni istio/cni -n istio-system --version "$ISTIO_VERSION" --wait
h upgrade --install istiod istio/istiod -n istio-system --version "$ISTIO_VERSION" --set pilot.cni.enabled=true --wait
h upgrade --install istio-ingress istio/gateway -n istio-ingress --create-namespace --version "$ISTIO_VERSION" \
  --set service.type=NodePort --set 'service.ports[0].name=https' --set 'service.ports[0].port=443' --set 'service.ports[0].nodePort=30443' --wait

say "KEDA $KEDA_VERSION"
h repo add kedacore https://kedacore.github.io/charts --force-update
h upgrade --install keda kedacore/keda -n keda --create-namespace --version "$KEDA_VERSION" --wait

say "Prometheus ($PROMETHEUS_STACK_VERSION)"
h repo add prometheus-community https://prometheus-community.github.io/helm-charts --force-update
h upgrade --install monitoring prometheus-community/kube-prometheus-stack -n monitoring --create-namespace --version "$PROMETHEUS_STACK_VERSION" \
  --set prometheus.prometheusSpec.podMonitorSelectorNilUsesHelmValues=false \
  --set prometheus.prometheusSpec.ruleSelectorNilUsesHelmValues=false --wait

say 'secrets, made once'
k create namespace percolate --dry-run=client -o yaml | apply
if [[ -n $DRY_RUN ]] || ! kubectl --context "kind-$CLUSTER" -n percolate get secret percolate-nats > /dev/null 2>&1; then
  {
    echo "sys-password=$(random)"
    for role in node worker gateway controller; do
      password=$(random)
      printf '%s-password=%s\n%s-url=nats://%s:%s@percolate-nats:4222\n' "$role" "$password" "$role" "$role" "$password"
    done
  } | secret percolate-nats
  echo "secret=$(random)" | secret percolate-cluster
  printf '%s\n' endpoint=http://percolate-object-store:9000 bucket=percolate region=us-east-1 access-key=percolate "secret-key=$(random)" |
    secret percolate-object-store
fi
if [[ -n $DRY_RUN ]] || ! kubectl --context "kind-$CLUSTER" -n istio-ingress get secret percolate-tls > /dev/null 2>&1; then
  folder=$(mktemp -d)
  trap 'rm -rf "$folder"' EXIT
  run openssl req -x509 -newkey rsa:2048 -nodes -days 365 -subj /CN=percolate.example.com -addext subjectAltName=DNS:percolate.example.com \
    -keyout "$folder/key.pem" -out "$folder/cert.pem"
  k -n istio-ingress create secret tls percolate-tls --key "$folder/key.pem" --cert "$folder/cert.pem"
fi

say 'Percolate'
k apply -k "$root/k8s/overlays/kind"
k -n percolate rollout status statefulset/percolate-nats --timeout=300s
# The image has the same tag each time, and is pulled at every start.
k -n percolate rollout restart statefulset/percolate-object-store statefulset/percolate-node-small \
  deployment/percolate-controller deployment/percolate-gateway-small deployment/percolate-worker-small
k -n percolate rollout status deployment/percolate-controller --timeout=300s
k -n percolate rollout status deployment/percolate-gateway-small --timeout=300s

say 'smoke test: the first request wakes the tier'
ask() {
  run curl --fail-with-body -sS -k --max-time 120 --resolve percolate.example.com:8443:127.0.0.1 -H 'X-Tenant-ID: smoke' "$@"
}
ask -X PUT -H 'Content-Type: application/json' -d '{"name":"Smoke"}' https://percolate.example.com:8443/api/v1/entities/smoke
ask https://percolate.example.com:8443/api/v1/entities/smoke
ask -F 'file=@-;filename=tides.txt' https://percolate.example.com:8443/upload <<< 'Tides are caused by the moon.'
say 'it runs: https://percolate.example.com:8443 (add --resolve percolate.example.com:8443:127.0.0.1 to curl); k8s/kind/down.sh takes it away'
