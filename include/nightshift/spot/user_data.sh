#!/bin/bash
# What a training machine does from its boot to its end. `ec2.py` fills in the quoted values. Another root is for rehearsals only.
root=${NIGHTSHIFT_MACHINE_ROOT:-}
# First of all its own end: whatever hangs below, it does not outlive its time by much.
shutdown -P "+$((($(date --date @UNTIL@ +%s) - $(date +%s)) / 60))"
mkdir -p "$root/var/log" "$root/opt/nightshift" "$root/var/lib/nightshift/run"
exec >"$root/var/log/nightshift-boot.txt" 2>&1
set -x
export AWS_DEFAULT_REGION=@REGION@ AWS_REGION=@REGION@

leave() {
    aws s3 cp --only-show-errors "$root/var/log/nightshift-boot.txt" @BOOT@
    # The instance's own shutdown behaviour is to be terminated.
    shutdown -P now
}
trap leave EXIT

set -euo pipefail
cd "$root/opt/nightshift"
aws s3 cp --only-show-errors @CODE@ code.tar.gz
echo @DIGEST@"  code.tar.gz" | sha256sum --check
tar --extract --gzip --file code.tar.gz
python=@PYTHON@
if [ -z "$python" ]; then
    python3.11 -m venv environment
    environment/bin/pip install --quiet --requirement requirements-training.txt
    python=$PWD/environment/bin/python
fi
# Its exit status is in the word that it leaves; this script has nothing to add.
PYTHONPATH=$PWD "$python" -m include.nightshift.spot.agent --run "$root/var/lib/nightshift/run" @OPTIONS@ || true
