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
agent=("$python" -m include.nightshift.spot.agent --run "$root/var/lib/nightshift/run" @OPTIONS@)
# Its exit status is in the word that it leaves; this script has nothing to add.
if [ -d "$root/run/systemd/system" ] && command -v systemd-run; then
    # A unit that starts after the network is stopped before it: a machine that is ended without notice can still bring away what it has.
    # Asked is the agent alone (mixed), which ends the trainer; and where the kernel kills the trainer for its memory, the agent lives on
    # (continue) to tell. A unit has nothing of this script's environment but what it is given.
    systemd-run --unit=nightshift --wait --pipe --collect \
        --property="After=network.target network-online.target" \
        --property=KillMode=mixed --property=KillSignal=SIGTERM --property=TimeoutStopSec=100 --property=OOMPolicy=continue \
        --setenv=PYTHONPATH="$PWD" --setenv=AWS_REGION="$AWS_REGION" --setenv=AWS_DEFAULT_REGION="$AWS_DEFAULT_REGION" \
        "${agent[@]}" || true
else
    PYTHONPATH=$PWD "${agent[@]}" || true
fi
