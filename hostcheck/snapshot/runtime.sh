# Reads this host and prints one tar archive on standard output. It changes nothing and leaves nothing behind.
# POSIX sh; needs mkdir, mkfifo, rm, head, ls, cat, tar, date, id, grep and sleep, of coreutils or busybox.
LC_ALL=C LANGUAGE=C
PATH=${PATH:-/usr/bin:/bin}:@SYSTEM_PATH@
export LC_ALL LANGUAGE PATH
unset CDPATH ENV
umask 077

fail() {
    echo "hostcheck: $1" >&2
    exit 1
}

dir=
for base in "${TMPDIR:-/tmp}" /dev/shm /run /var/tmp "${HOME:-/}" .; do
    if mkdir "$base/.hostcheck.$$" 2>/dev/null; then
        dir=$base/.hostcheck.$$
        break
    fi
done
[ -n "$dir" ] || fail 'no folder can be written: /tmp, /dev/shm, /run and /var/tmp were tried'
trap 'rm -rf "$dir"' EXIT
trap 'exit 1' HUP INT TERM
mkfifo "$dir/events" 2>/dev/null || fail "$dir: cannot make a FIFO"
exec 3<>"$dir/events"

setsid=
command -v setsid >/dev/null 2>&1 && setsid=setsid

# What the functions below set by name.
path='' state='' kind='' at='' seconds='' limit='' pid=''

now() { # sets up: seconds since boot
    up=0
    read -r up _ </proc/uptime
}

count=0   # commands started
running=0 # commands not yet ended

# end N ENDING CODE STARTED NOTE: what is known of command N is final
end() {
    now
    eval "path=\$path_$1 limit=\$limit_$1"
    printf '%s\n%s\n' "$2 $3 $4 $up $limit" "$5" >"$dir/p/$path/status"
    eval "state_$1=ended"
    running=$((running - 1))
}

# skip ID ENDING NOTE: a probe that is not run
skip() {
    now
    printf '%s - %s %s -\n%s\n' "$2" "$up" "$up" "$3" >"$dir/p/$1/status"
}

# ask ID PATH...: what a probe is asked for, globs unexpanded
ask() {
    asked=$1
    shift
    printf '%s\n' "$@" >"$dir/p/$asked/asked"
}

# run ID SECONDS BLOCKS LIMIT KIND COMMAND...: start a command in the background, with its limits
run() {
    count=$((count + 1))
    running=$((running + 1))
    now
    eval "path_$count=\$1 seconds_$count=\$2 limit_$count=\$4 kind_$count=\$5 state_$count=running pid_$count= at_$count=$up"
    number=$count
    into=$dir/p/$1
    blocks=$3
    shift 5
    {
        trap - EXIT HUP INT TERM
        (
            ulimit -f "$blocks"
            # shellcheck disable=SC2086 # setsid may be empty
            exec $setsid "$@"
        ) </dev/null >"$into/out" 2>"$into/err" 3>&- &
        echo "start $number $!" >&3
        wait $!
        echo "done $number $?" >&3
    } </dev/null >/dev/null 2>&1 &
}

# files ID SECONDS BLOCKS LIMIT PATH...: the contents of many files by one process
files() {
    into=$1 seconds=$2 blocks=$3 limit=$4
    shift 4
    printf '%s\n' "$@" >"$dir/p/$into/list"
    run "$into" "$seconds" "$blocks" "$limit" files head -c $((limit + 1)) /dev/null "$@"
}

# entries ID SECONDS BLOCKS PATH...: existence, type and link target of many paths by one process
entries() {
    into=$1 seconds=$2 blocks=$3
    shift 3
    printf '%s\n' "$@" >"$dir/p/$into/list"
    run "$into" "$seconds" "$blocks" - files ls -ldn "$@"
}

# tool ID SECONDS BLOCKS COMMAND...: a command, if it is installed
tool() {
    if command -v "$4" >/dev/null 2>&1; then
        into=$1 seconds=$2 blocks=$3
        shift 3
        run "$into" "$seconds" "$blocks" - tool "$@"
    else
        skip "$1" absent "$4 is not installed"
    fi
}

# awake GLOB...: false if there are such files and all of them say "suspended"
awake() {
    seen=
    for file in "$@"; do
        [ -r "$file" ] || continue
        read -r word <"$file"
        [ "$word" = suspended ] || return 0
        seen=yes
    done
    [ -z "$seen" ]
}

timers=0 # started in this round
naps=''  # the sleeping processes of those that have reported

# timer SECONDS EVENT: send an event later
timer() {
    timers=$((timers + 1))
    {
        trap - EXIT HUP INT TERM
        sleep "$1" &
        echo "nap $!" >&3
        wait $! && echo "$2" >&3
    } </dev/null >/dev/null 2>&1 &
}

# finished N CODE: command N ended by itself or was killed
finished() {
    eval "kind=\$kind_$1 state=\$state_$1 at=\$at_$1 seconds=\$seconds_$1"
    case $state:$kind:$2 in
    ended:*) ;;
    killed:*) end "$1" timeout - "$at" "no answer in $seconds s" ;;
    *:153) end "$1" truncated - "$at" 'more than its limit of bytes' ;;
    *:files:[012]) end "$1" ok 0 "$at" '' ;;
    *:0) end "$1" ok 0 "$at" '' ;;
    *:126) end "$1" denied - "$at" 'permission denied' ;;
    *:1[3-9][0-9] | *:129) end "$1" killed $(($2 - 128)) "$at" "signal $(($2 - 128))" ;;
    *) end "$1" exit "$2" "$at" '' ;;
    esac
}

# each_running COMMAND...: call it with the number of each command that has not ended
each_running() {
    number=1
    while [ "$number" -le "$count" ]; do
        eval "state=\$state_$number"
        [ "$state" = ended ] || "$@" "$number"
        number=$((number + 1))
    done
}

overdue() { # SECONDS N
    eval "seconds=\$seconds_$2 pid=\$pid_$2"
    if [ "$seconds" = "$1" ] && [ -n "$pid" ]; then
        eval "state_$2=killed"
        kill -KILL -- "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null
    fi
}

abandon() { # SECONDS N
    eval "seconds=\$seconds_$2 at=\$at_$2"
    [ "$seconds" = "$1" ] && end "$2" timeout - "$at" "no answer in $seconds s; it cannot be killed and was left behind"
}

# settle LIMIT...: wait until every command has ended or was given up; LIMITs are all the time limits in use
settle() {
    for limit in "$@"; do
        timer "$limit" "limit $limit"
        timer "$((limit + 1))" "abandon $limit"
    done
    asleep=0
    while [ "$running" -gt 0 ] || [ "$asleep" -lt "$timers" ]; do
        read -r event number value <&3
        case $event in
        nap) asleep=$((asleep + 1)) naps="$naps $number" ;;
        start) eval "pid_$number=$value" ;;
        done) finished "$number" "$value" ;;
        limit) each_running overdue "$number" ;;
        abandon) each_running abandon "$number" ;;
        esac
    done
    # shellcheck disable=SC2086 # a list of numbers
    kill -KILL $naps 2>/dev/null
    timers=0 naps=''
}
