# One host's part in a measurement over several: runs torchrun, and ends it when nobody listens any more.
# Before this come the variables python, limit, cuda, plan, the function write_source, and torchrun's words as $@.
umask 077
child=
dir=
fail() { echo "hostcheck: $*" >&2; exit 1; }
refuse() { fail "cannot take part: $*"; }
stop() {
    trap '' HUP INT TERM
    [ -n "$child" ] || return 0
    kill "$child" 2>/dev/null
    n=0
    while kill -0 "$child" 2>/dev/null && [ "$n" -lt 15 ]; do sleep 1; n=$((n + 1)); done
    kill -9 "$child" 2>/dev/null
    child=
}
trap '[ -z "$dir" ] || rm -rf "$dir"' EXIT
trap 'stop; exit 1' HUP INT TERM
trap '' PIPE

command -v "$python" >/dev/null 2>&1 || refuse "$python is not there; --python names one that has torch"
dir=$(mktemp -d "${TMPDIR:-/tmp}/hostcheck-XXXXXX") || refuse 'no folder for temporary files can be made'
write_source >"$dir/collective.py" || refuse "$dir cannot be written"
"$python" - "$cuda" >"$dir/check" 2>&1 <<'END' || refuse "$(tail -n 1 "$dir/check")"
import sys
try:
    import torch
    import torch.distributed as dist
except ImportError as problem:
    sys.exit(f"torch cannot be imported: {problem}; --python names a Python that has it")
if sys.argv[1]:
    if not torch.cuda.is_available():
        sys.exit(f"torch {torch.__version__} cannot use a GPU here")
    if not dist.is_nccl_available():
        sys.exit(f"torch {torch.__version__} was built without NCCL")
END
# torchrun leaves folders behind: here they go away with the rest.
export TMPDIR="$dir"
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$python" "$@" "$dir/collective.py" "$plan" </dev/null >"$dir/out" 2>"$dir/err" &
child=$!
seconds=0
while kill -0 "$child" 2>/dev/null; do
    if [ "$seconds" -ge "$limit" ]; then
        stop
        fail "not done after $limit s, and ended"
    fi
    seconds=$((seconds + 1))
    sleep 1
    echo . 2>/dev/null || { stop; exit 1; }
done
wait "$child"
code=$?
child=
grep '^hostcheck-rank ' "$dir/out"
[ "$code" = 0 ] && exit 0
# The first line that names an error; torchrun's own summary names none.
said=$(grep -E '(Error|Exception)(:|$)' "$dir/err" | grep -v ChildFailedError | head -n 1 | cut -c 1-400)
fail "${said:-torchrun ended with exit status $code}"
