#!/usr/bin/env bash
# Start a tool in several processes; dist_train.sh and dist_test.sh use this.
#   launch.sh TOOL COUNT ARGUMENTS... GPUS [options]
# COUNT is the number of the tool's own arguments before GPUS.
set -euo pipefail

tool=$1 count=$2
shift 2
if (($# <= count)) || [[ ! ${*:count+1:1} =~ ^[1-9][0-9]*$ ]]; then
    echo "error: expected $count argument(s) and a number of processes," \
        "got: $*" >&2
    exit 2
fi
gpus=${*:count+1:1}
python=${PYTHON:-python}
nnodes=${NNODES:-1}
if [[ -z ${PORT:-} ]]; then
    if ((nnodes > 1)); then
        PORT=29500 # all machines need the same
    else
        PORT=$("$python" -c 'import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    print(s.getsockname()[1])')
    fi
fi

# torch.distributed.run, which a signal ends without a traceback and with the
# exit status of the signal.
run='import sys
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.run import main
try:
    main()
except SignalException as error:
    sys.exit(128 + error.sigval)'
exec "$python" -c "$run" \
    --nnodes="$nnodes" \
    --node_rank="${NODE_RANK:-0}" \
    --master_addr="${MASTER_ADDR:-127.0.0.1}" \
    --master_port="$PORT" \
    --nproc_per_node="$gpus" \
    "$(dirname "$0")/../$tool" "${@:1:count}" --launcher pytorch \
    "${@:count+2}"
