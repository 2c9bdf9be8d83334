# Reads this host and prints one tar archive on standard output. It changes nothing and leaves nothing behind.
# POSIX sh; needs mkdir, mkfifo, rm, head, ls, tar, date and sleep, of coreutils or busybox. What a host does for this
# counts where many share a machine, so a builtin is used where there is one, and a process started for probes alone.
LC_ALL=C LANGUAGE=C
PATH=${PATH:-/usr/bin:/bin}:@SYSTEM_PATH@
export LC_ALL LANGUAGE PATH
unset CDPATH ENV
umask 077

fail() {
    echo "hostcheck: $1" >&2
    exit 1
}

room() { # BYTES: whether the folder takes so much more; what does not fit would be read as if it ended there
    head -c "$1" /dev/zero 2>/dev/null >"$dir/room" && true >"$dir/room"
}

stop() { # N
    eval "pid=\$pid_$1 kind=\$kind_$1"
    if [ "$kind" = reader ]; then
        alive "$pid" && kill -KILL "$pid"
        return
    fi
    [ -z "$pid" ] || kill -KILL "-$pid" 2>/dev/null || kill -KILL "$pid" 2>/dev/null
}

for name in mkdir mkfifo rm head ls tar date sleep; do
    command -v "$name" >/dev/null 2>&1 || fail "$name is not installed there, and nothing can be read without it"
done

dir=
full=
clock= # its process
trap '[ -z "$clock" ] || ! alive "$clock" || kill "$clock" 2>/dev/null; [ -z "$dir" ] || rm -rf "$dir"' EXIT
trap 'each_running stop; exit 1' HUP INT TERM
# Memory first: some 250 small files cost a disk more than the reading does, and a disk may be what is broken.
for base in "${TMPDIR:-/dev/shm}" /tmp /run /var/tmp "${HOME:-/}" .; do
    mkdir "$base/.hostcheck.$$" 2>/dev/null || continue
    dir=$base/.hostcheck.$$
    room 1048576 && break
    full="$full $base"
    rm -rf "$dir"
    dir=
done
[ -n "$dir" ] || [ -z "$full" ] || fail "no folder has room for 1 MiB:$full"
[ -n "$dir" ] || fail 'no folder can be written: /dev/shm, /tmp, /run and /var/tmp were tried'
mkfifo "$dir/events" 2>/dev/null || fail "$dir: cannot make a FIFO"
exec 3<>"$dir/events"

setsid=
command -v setsid >/dev/null 2>&1 && setsid=setsid

# What the functions below set by name.
path='' state='' kind='' at='' seconds='' limit='' pid='' value=''
waiting='' # numbers of readers not yet awaited
gather=''  # the number of the group for which files() and entries() only note what is to be read
paths=''   # of that group, one a line
line='
'

# Whether a signal wakes a wait: not where USR1 was ignored before this began. Between waits it is ignored.
wakes=
trap 'wakes=yes' USR1
kill -USR1 $$
trap '' USR1

now() { # sets up: seconds since boot
    up=0
    read -r up _ </proc/uptime
}

count=0   # commands started
running=0 # commands not yet ended

# end N ENDING CODE STARTED NOTE: what is known of command N, as it is at `up`, is final
end() {
    eval "path=\$path_$1 limit=\$limit_$1 state_$1=ended"
    running=$((running - 1))
    case $path:$2 in
    +*:ok | [!+]*) printf '%s\n%s\n' "$2 $3 $4 $up $limit" "$5" >"$dir/p/$path/status" ;;
    *) # a group that did not end well: each of its probes is read by itself
        for part in out err list; do true >"$dir/p/$path/$part"; done
        "group_${path#+}"
        ;;
    esac
}

# skip ID ENDING NOTE: a probe that is not run
skip() {
    now
    printf '%s - %s %s -\n%s\n' "$2" "$up" "$up" "$3" >"$dir/p/$1/status"
}

# note PATH SECONDS LIMIT KIND: a command is about to start
note() {
    count=$((count + 1))
    running=$((running + 1))
    now
    eval "path_$count=\$1 seconds_$count=\$2 limit_$count=\$3 kind_$count=\$4 state_$count=running pid_$count= at_$count=$up"
}

# run ID SECONDS BLOCKS LIMIT KIND COMMAND...: start a command in a session of its own, and who tells of its end
run() {
    note "$1" "$2" "$4" "$5"
    into=$dir/p/$1
    blocks=$3
    shift 5
    {
        trap - EXIT HUP INT TERM USR1
        (
            ulimit -f "$blocks"
            # shellcheck disable=SC2086 # setsid may be empty
            exec $setsid "$@"
        ) </dev/null >"$into/out" 2>"$into/err" 3>&- &
        echo "start $count $!" >&3
        wait $!
        code=$?
        now
        echo "done $count $code $up" >&3
    } </dev/null >/dev/null 2>&1 &
}

# reader ID SECONDS BLOCKS LIMIT COMMAND...: start a command that starts no others: one process, which settle() awaits
reader() {
    if [ -z "$wakes" ]; then
        into=$1 seconds=$2 blocks=$3 limit=$4
        shift 4
        run "$into" "$seconds" "$blocks" "$limit" files "$@"
        return
    fi
    note "$1" "$2" "$4" reader
    into=$dir/p/$1
    blocks=$3
    shift 4
    (
        trap - EXIT HUP INT TERM USR1
        ulimit -f "$blocks"
        exec "$@"
    ) </dev/null >"$into/out" 2>"$into/err" 3>&- &
    eval "pid_$count=$!"
    waiting="$waiting $count"
}

# files ID SECONDS BLOCKS LIMIT PATH...: the contents of many files by one process
files() {
    into=$1 seconds=$2 blocks=$3 limit=$4
    shift 4
    listed "$into" "$limit" "$@" || reader "$into" "$seconds" "$blocks" "$limit" head -c $((limit + 1)) /dev/null "$@"
}

# entries ID SECONDS BLOCKS PATH...: existence, type and link target of many paths by one process
entries() {
    into=$1 seconds=$2 blocks=$3
    shift 3
    listed "$into" - "$@" || reader "$into" "$seconds" "$blocks" - ls -ldn "$@"
}

listed() { # ID LIMIT PATH...: note what is read; whether a group reads it
    if [ -n "$gather" ]; then
        printf '%s\n' "$@" >>"$dir/p/+$gather/list"
        shift 2
        IFS=$line
        paths="$paths$line$*"
        unset IFS
        return
    fi
    [ -d "$dir/p/$1" ] || mkdir -p "$dir/p/$1"
    shift 2
    printf '%s\n' "$@" >"$dir/p/$into/list"
    return 1
}

# together N SECONDS BLOCKS COMMAND...: what the function group_N reads, by one process in place of one for each probe.
# Where that does not end well, because one file is stuck or floods, each probe is read by itself.
together() {
    group=$1 seconds=$2 blocks=$3
    shift 3
    gather=$group paths=''
    "group_$group"
    gather=''
    [ -n "$paths" ] || return 0
    if [ ${#paths} -gt 262144 ]; then # so long a list is better read side by side, and may be too long for one command
        true >"$dir/p/+$group/list"
        "group_$group"
        return
    fi
    set -f
    IFS=$line
    # shellcheck disable=SC2086 # a list of lines
    set -- "$@" $paths
    unset IFS
    set +f
    reader "+$group" "$seconds" "$blocks" - "$@"
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

answered() { # ID: whether its first sample was taken; one without a status is of a group that ended well
    [ -e "$dir/p/$1/status" ] || return 0
    read -r word _ <"$dir/p/$1/status"
    [ "$word" = ok ]
}

user() { # sets uid
    while read -r word _ uid _; do
        [ "$word" = Uid: ] && return
    done </proc/self/status
    uid=$(id -u)
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

# alive PID: whether it is a child of ours that has not ended
alive() {
    word='' parent=''
    # shellcheck disable=SC2034 # what stands between
    read -r _ _ word parent _ <"/proc/$1/stat"
    [ "$parent" = "$$" ] && [ "$word" != Z ]
} 2>/dev/null

# clock: start what sends "tick" every second, and wakes a wait
clock() {
    {
        trap - EXIT HUP INT USR1
        nap=
        trap '[ -z "$nap" ] || kill "$nap"; exit' TERM
        while :; do
            sleep 1 &
            nap=$!
            wait "$nap" || exit
            nap=
            read -r _ _ _ parent _ </proc/self/stat
            [ "$parent" = "$$" ] || exit
            kill -USR1 $$
            echo tick >&3
        done
    } </dev/null >/dev/null 2>&1 &
    clock=$!
}

# finished N CODE: command N ended at `up`, by itself or killed
finished() {
    eval "kind=\$kind_$1 state=\$state_$1 at=\$at_$1 seconds=\$seconds_$1"
    case $state:$kind:$2 in
    ended:*) ;;
    killed:*) end "$1" timeout - "$at" "no answer in $seconds s" ;;
    *:153) end "$1" truncated - "$at" 'more than its limit of bytes' ;;
    *:files:[012] | *:reader:[012]) end "$1" ok 0 "$at" '' ;;
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

hundredths() { # SECONDS, with two decimals: sets value
    value=${1%.*}${1#*.}
    value=$((${value#"${value%%[1-9]*}"} + 0))
}

late() { # N: kill what is over its time, and give up what is still there a second later
    eval "seconds=\$seconds_$1 pid=\$pid_$1 at=\$at_$1"
    hundredths "$at"
    [ $((moment - value)) -ge $((seconds * 100)) ] && [ -n "$pid" ] || return
    if [ "$state" != killed ]; then
        eval "state_$1=killed killed_$1=$moment"
    else
        eval "value=\$killed_$1"
        [ $((moment - value)) -ge 90 ] || return
        end "$1" timeout - "$at" "no answer in $seconds s; it cannot be killed and was left behind"
    fi
    stop "$1"
}

# collect: take the status of readers that have ended, and leave alone those that have not, or were given up
collect() {
    # shellcheck disable=SC2086 # a list of numbers
    set -- $waiting
    waiting=
    for each in "$@"; do
        eval "pid=\$pid_$each state=\$state_$each"
        [ "$state" = ended ] && continue
        if alive "$pid"; then
            waiting="$waiting $each"
        else
            wait "$pid"
            code=$?
            now
            finished "$each" "$code"
        fi
    done
}

# event: take the next one
event() {
    read -r what number value up <&3
    case $what in
    start) eval "pid_$number=$value" ;;
    done) finished "$number" "$value" ;;
    tick)
        now
        hundredths "$up"
        moment=$value
        each_running late
        ;;
    esac
}

# settle: wait until every command has ended or was given up
settle() {
    while [ "$running" -gt 0 ]; do
        [ -n "$clock" ] || clock
        # shellcheck disable=SC2086 # a list of numbers
        set -- $waiting
        if [ $# -eq 0 ]; then
            event
            continue
        fi
        eval "pid=\$pid_$1"
        woken=
        trap 'woken=yes' USR1
        wait "$pid"
        code=$?
        trap '' USR1
        now
        case $woken:$code in
        yes:137 | yes:153 | :* | yes:? | yes:??) ;;
        *)
            # The clock and not an end: the tick itself is about to come.
            what=
            until [ "$what" = tick ]; do event; done
            collect
            continue
            ;;
        esac
        number=$1
        shift
        waiting=$*
        finished "$number" "$code"
    done 2>/dev/null
}
