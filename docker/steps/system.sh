#!/bin/bash
# System packages: certificates, and wget, with which KubeRay probes its containers.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive
apt-get update -q
apt-get install -q -y --no-install-recommends ca-certificates wget
rm -rf /var/lib/apt/lists/*
