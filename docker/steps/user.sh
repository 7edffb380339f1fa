#!/bin/bash
# The user 1000 that everything runs as, and the folders it may write.
set -euo pipefail
groupadd --gid 1000 viewgen
useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash viewgen
# login shells, which KubeRay and Ray's launcher use, set their own PATH
echo 'PATH=/opt/viewgen/bin:$PATH' > /etc/profile.d/viewgen.sh
install -d -o viewgen -g viewgen /data /data/datasets /data/models /data/caches /tmp/ray
