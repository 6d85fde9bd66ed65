#!/usr/bin/env bash
# Takes away what up.sh made: the cluster with all its data, and the registry.
set -euo pipefail
kind delete cluster --name percolate
docker rm -f percolate-registry > /dev/null 2>&1 || true
