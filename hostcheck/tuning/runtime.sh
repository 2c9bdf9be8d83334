# Changes this host step by step, writes each step down before it is taken, and takes steps back.
# POSIX sh; needs cat, cp, mv, rm, mkdir, rmdir, ls, head, wc, id, date, sync, sleep and flock, of coreutils and
# util-linux or of busybox.
# A value is "=TEXT", or "-" where nothing stands there. No part of a value is ever read as a command.
LC_ALL=C LANGUAGE=C
PATH=${PATH:-/usr/bin:/bin}:@SYSTEM_PATH@
export LC_ALL LANGUAGE PATH
unset CDPATH ENV
umask 077
set -f
trap '' HUP INT QUIT TERM PIPE # whoever started this may go; what was begun is brought to an end

root=${HOSTCHECK_ROOT:-}
state=$root/var/lib/hostcheck
tab=$(printf '\t')
nl='
'
blank=" $tab$nl"
IFS=$blank

# What the functions below set by name.
why='' text='' now='' id='' tx='' torn='' ended='' stands='' booted='' damaged='' count=0 boot='' contents=''
number='' kind='' target='' before='' after='' reload='' was=''
mode=''       # what `change` does: look, note or act
failed=''     # why the transaction stopped
stuck=''      # whether a step could not be taken back
recovering='' # whether steps that the journal does not know of are looked at
broken=''     # whether the unit that was looked at has failed
alien=''      # whether what stands there is nothing that hostcheck writes
reloads=''    # who must read again what was changed
arguments=''  # numbers of the changes that have their end once GRUB's configuration is made
folders=''    # to be made durable at the end
largest=65536 # bytes of a file that is written or kept
safe=$nl      # folders in which nobody else can write
confirming='' # seconds within which the transaction must be confirmed

checkpoint() { :; } # NAME: a moment at which this may be killed

# --- What is said: a line for each event on standard output, fields between tabs -----------------------------------

replace() { # FROM TO: in text
    rest=$text text=
    while :; do
        case $rest in
        *"$1"*) text=$text${rest%%"$1"*}$2 rest=${rest#*"$1"} ;;
        *) break ;;
        esac
    done
    text=$text$rest
}

escape() { # TEXT: sets text, a field of a line
    text=$1
    # shellcheck disable=SC1003 # two of them
    case $text in *\\*) replace \\ '\\' ;; esac
    case $text in *"$tab"*) replace "$tab" '\t' ;; esac
    case $text in *"$nl"*) replace "$nl" '\n' ;; esac
}

unescape() { # FIELD: sets text
    text=$1
    case $text in
    *\\*)
        text=$(printf '%b.' "$1")
        text=${text%.}
        ;;
    esac
}

tell() { # FIELD...
    said=
    for field in "$@"; do
        escape "$field"
        said=$said$tab$text
    done
    printf '%s\n' "${said#"$tab"}" || : # who listened may be gone
} 2>/dev/null

step() { # N WORD WHY
    tell step "$1" "$2" "$3"
    case $2 in
    moved | refused | failed | left | stuck) echo "hostcheck: change $1 $2: $3" >&2 || : ;;
    esac
}

finish() { # TRANSACTION WORD WHY: the last line, and the end
    tell end "$1" "$2" "$3"
    case $2:$failed in
    committed:* | nothing:* | awaiting:* | rolled-back:) exit 0 ;;
    esac
    echo "hostcheck: $2: $3" >&2
    exit 1
}

refuse() { # WHY
    finish - refused "$1"
}

show() { # VALUE: sets text, short enough for a line
    case $1 in
    -) text=nothing ;;
    =) text='an empty value' ;;
    *) text=${1#=} ;;
    esac
    [ ${#text} -le 400 ] || text="$(printf '%.400s' "$text") ..."
}

reason() { # TEXT: sets why to what the system said at its end
    why=${1##*"$nl"}
    why=${why##*: }
    [ -n "$why" ] || why='it failed without a word'
}

attempt() { # COMMAND...: where it fails, why is the last line that it said
    why=$("$@" 2>&1 </dev/null) && return 0
    why=${why##*"$nl"}
    [ -n "$why" ] || why="$1 failed without a word"
    return 1
}

outside() { # COMMAND...: one that makes files for others too
    umask 022
    attempt "$@"
    code=$?
    umask 077
    return $code
}

# --- The journal: a line for each event, fields between tabs; the last is the length of what stands before it ------

record() { # FIELD...
    line=$1
    shift
    for field in "$@"; do
        escape "${field:--}"
        line=$line$tab$text
    done
    if { printf '%s\n' "$torn$line$tab${#line}" >>"$tx/journal"; } 2>/dev/null; then
        torn=
        return 0
    fi
    torn=$nl
    reason "$({ echo | cat >>"$tx/journal"; } 2>&1)"
    why="$tx/journal cannot be written: $why"
    rm -f "$tx/room" # for the words that are still to come
    return 1
}

durable() { # FILE...: on the disk, and not in memory alone
    sync "$@" 2>/dev/null || sync
}

entry() { # LINE of the journal, without its length
    IFS=$tab
    # shellcheck disable=SC2086 # its fields
    set -- $1
    IFS=$blank
    case $1 in
    '' | *[!0-9]* | ???????*) damaged=yes ;;
    0)
        case $2 in
        journal) version=$3 booted=$8 total=${10} ;;
        rolling-back) ended=$2 only=" ${3:+$3 }" ;;
        committed | stopped) ended=$2 stands=$2 only=' ' ;;
        *) ended=$2 only=' ' ;;
        esac
        ;;
    *)
        case $2 in
        plan)
            while [ "$count" -lt "$1" ]; do
                count=$((count + 1))
                eval "kind_$count='' state_$count=''"
            done
            eval "kind_$1=\$3 target_$1=\$4 before_$1=\$5 after_$1=\$6 reload_$1=\$8 state_$1=planned made_$1="
            ;;
        made) ! known "$1" || eval "made_$1=\$3\$nl\$made_$1" ;;
        *) if known "$1"; then eval "state_$1=\$2"; else damaged=yes; fi ;;
        esac
        ;;
    esac
}

known() { # N: whether the journal has said what change N is
    [ "$1" -le "$count" ] && eval "[ -n \"\$kind_$1\" ]"
}

load() { # ID: read the journal of a transaction
    id=$1 tx=$state/tx/$1 count=0 damaged='' ended='' stands='' booted='' version='' torn='' only=' ' total=0
    if ! [ -d "$tx" ]; then
        why="there is no transaction $1"
        return 1
    fi
    if ! [ -e "$tx/journal" ]; then
        damaged=yes
        return 0
    fi
    if ! [ -r "$tx/journal" ]; then
        why="$tx/journal cannot be read"
        return 1
    fi
    more=yes
    while [ -n "$more" ]; do
        IFS= read -r line || more=
        [ -n "$line" ] || continue
        [ -n "$more" ] || torn=$nl
        body=${line%"$tab"*}
        if [ "$line" != "$body" ] && [ "${line##*"$tab"}" = "${#body}" ]; then
            entry "$body"
        else
            damaged=yes
        fi
    done <"$tx/journal"
    case $version in
    1)
        [ "$total" = "$count" ] || damaged=yes
        return 0
        ;;
    '')
        damaged=yes
        return 0
        ;;
    esac
    why="transaction $1 was written by another version of hostcheck (journal $version; this one reads 1)"
    return 1
}

close() { # WORD [FIELD]: the end of the transaction, made durable
    closing=$1
    record 0 "$@" || return 1
    checkpoint end
    set -- "$tx/journal" "$tx"
    IFS=$nl
    # shellcheck disable=SC2086 # one a line
    set -- "$@" $folders
    IFS=$blank
    durable "$@"
    folders=
    checkpoint closed
    [ "$closing" = awaiting ] || rm -f "$tx/room" "$tx/open"
}

# --- The state on this host ----------------------------------------------------------------------------------------

safe_folder() { # FOLDER: whether nobody else can put something into what of it is there
    case $safe in *"$nl$1$nl"*) return 0 ;; esac
    path=$root further=${1#/}/
    wanted=$1
    set --
    while [ -n "$further" ]; do
        path=$path/${further%%/*} further=${further#*/}
        [ -e "$path" ] || [ -L "$path" ] || break
        set -- "$@" "$path"
    done
    if [ $# -gt 0 ]; then
        listing=$(ls -ldn "$@" 2>&1) || {
            reason "$listing"
            return 1
        }
        IFS=$nl
        for line in $listing; do
            IFS=$blank
            safe_entry "$1" "$line" || return 1
            shift
        done
        IFS=$blank
    fi
    safe=$safe$wanted$nl
}

safe_entry() { # PATH LINE of ls
    path=$1
    # shellcheck disable=SC2086 # its columns
    set -- $2
    case $1 in
    d???????w*) why="$path can be written by everybody" ;;
    d*)
        [ "$3" = 0 ] || [ "$3" = "$uid" ] || {
            why="$path belongs to user $3"
            return 1
        }
        return 0
        ;;
    l*) why="$path is a symbolic link" ;;
    *) why="$path is not a folder" ;;
    esac
    return 1
}

prepare() { # WHAT FOR: the folder of this host's transactions, and the lock
    for name in cat cp mv rm mkdir rmdir ls head wc id date sync sleep flock; do
        command -v "$name" >/dev/null 2>&1 || refuse "$name is not installed there, and nothing can be changed without it"
    done
    uid=$(id -u)
    hint=
    [ "$uid" = 0 ] || hint='; run this as root'
    safe_folder /var/lib/hostcheck/tx || refuse "$why; nothing is kept there"
    for folder in "$root/var" "$root/var/lib" "$state" "$state/tx"; do
        [ -d "$folder" ] || attempt mkdir "$folder" || {
            reason "$why"
            refuse "$folder cannot be made: $why$hint"
        }
    done
    why=$({ : >>"$state/lock"; } 2>&1) || {
        reason "$why"
        refuse "$state/lock cannot be written: $why$hint"
    }
    exec 9>>"$state/lock"
    tries=0
    until flock -n 9; do
        holder='' who=''
        read -r _ holder who <"$state/lock"
        # What a killed one had started may hold the lock a moment longer.
        if [ -z "$holder" ] || [ -d "/proc/$holder" ]; then
            refuse "another hostcheck is changing this host: process ${holder:-unknown}, $who"
        fi
        [ "$tries" -lt 10 ] || refuse "what process $holder started before it was killed is still at work ($who)"
        tries=$((tries + 1))
        sleep 1
    done
    printf 'process %s %s\n' "$$" "$1, since $(date -u +%Y-%m-%dT%H:%M:%SZ)" >"$state/lock"
    boot=
    ! [ -r "$root/proc/sys/kernel/random/boot_id" ] || read -r boot <"$root/proc/sys/kernel/random/boot_id"
}

newest() { # sets last, the number of the newest transaction, and all of them in ids, oldest first
    last=0 ids=
    set +f
    for folder in "$state"/tx/*; do
        case ${folder##*/} in '' | *[!0-9]*) continue ;; esac
        [ "${folder##*/}" -le "$last" ] || last=${folder##*/}
    done
    set -f
    n=0
    while [ "$n" -lt "$last" ]; do
        n=$((n + 1))
        # One that was killed before it wrote a word is none.
        ! [ -e "$state/tx/$n/open" ] && ! [ -e "$state/tx/$n/journal" ] || ids="$ids $n"
    done
}

unfinished() { # sets open, the numbers of transactions that were not brought to an end
    newest
    open=
    for n in $ids; do
        [ ! -e "$state/tx/$n/open" ] || open="$open $n"
    done
    [ -n "$open" ]
}

# --- Kinds: each has a reader, which sets now, and a writer --------------------------------------------------------

same() { # VALUE VALUE: whether they mean the same to the thing that has them
    [ "$1" != "$2" ] || return 0
    if [ "$1" = - ] || [ "$2" = - ]; then
        return 1
    fi
    case $kind in
    write | nic)
        plain "$1"
        one=$text
        plain "$2"
        [ "$one" = "$text" ]
        ;;
    gpu)
        case $target in *' mig-layout')
            same_profiles "${1#=}" "${2#=}"
            return
            ;;
        esac
        number_of "$1"
        one=$text
        number_of "$2"
        [ "$one" = "$text" ]
        ;;
    mount) options_in "$1" "$2" && options_in "$2" "$1" ;;
    swap) case $1:$2 in =-*:=-*) return 0 ;; *) return 1 ;; esac ;; # the kernel chose both
    *) return 1 ;;
    esac
}

plain() { # VALUE: sets text, without what the kernel adds: blanks, and the leading zeros and commas of a mask
    # shellcheck disable=SC2086 # its words
    set -- ${1#=}
    text=$*
    case $target in
    */smp_affinity | */rps_cpus | */xps_cpus | */cpumask | */cpumask_*)
        replace , ''
        text=${text#"${text%%[!0]*}"}
        ;;
    esac
}

number_of() { # VALUE: sets text, 300 for 300.00
    text=${1#=}
    case $text in
    *[!0-9.]* | *.*.*) ;;
    *.*)
        text=${text%"${text##*[!0]}"}
        text=${text%.}
        ;;
    esac
}

options_in() { # OPTIONS OPTIONS: whether each of the first is among the second
    others=,${2#=},
    IFS=,
    for option in ${1#=}; do
        IFS=$blank
        case $others in *",$option,"*) ;; *) return 1 ;; esac
    done
    IFS=$blank
}

read_value() { # of kind and target: sets now; where it cannot be known, fails and sets why
    now=- why=''
    case $kind in
    write) read_write "$target" ;;
    nic) read_write "/sys/class/net/${target% mtu}/mtu" ;;
    file) read_file ;;
    unit) read_unit ;;
    kernel-arg) read_argument "${target%% *}" "${target#* }" '' ;;
    gpu) read_gpu "${target%% *}" "${target#* }" ;;
    mount) read_mount ;;
    swap) read_swap ;;
    module) read_module ;;
    *) why="hostcheck does not know changes of the kind $kind here" && return 1 ;;
    esac
}

write_value() { # VALUE: to kind and target
    case $kind in
    write) write_write "$target" "$1" ;;
    nic) write_write "/sys/class/net/${target% mtu}/mtu" "$1" ;;
    file) write_file "$1" ;;
    unit) write_unit "$1" ;;
    kernel-arg) write_argument "${target%% *}" "${target#* }" "$1" ;;
    gpu) write_gpu "${target%% *}" "${target#* }" "$1" ;;
    mount) write_mount "$1" ;;
    swap) write_swap "$1" ;;
    module) write_module "$1" ;;
    esac
}

read_write() { # PATH
    [ -e "$root$1" ] || return 0
    # Not `read`, which asks for one byte at a time: many of these files answer only the first time.
    text=$(cat "$root$1" 2>&1) || {
        reason "$text"
        why="$1 cannot be read: $why"
        return 1
    }
    now="=$text"
    case $text in *\[*\]*) ;; *) return 0 ;; esac
    chosen=
    for word in $text; do
        case $word in
        \[*\])
            [ -z "$chosen" ] || return 0
            chosen=${word#\[}
            ;;
        esac
    done
    [ -z "$chosen" ] || now="=${chosen%\]}"
}

write_write() { # PATH VALUE
    if [ "$2" = - ]; then
        why="$1 cannot be taken away"
        return 1
    fi
    # Not by the shell, of which some do not say what the kernel answered.
    why=$({ printf '%s\n' "${2#=}" 2>/dev/null | cat >"$root$1"; } 2>&1) && return 0
    reason "$why"
    show "$2"
    why="the kernel refused $text: $why"
    return 1
}

read_file() {
    file=$root$target
    alien=yes # while it is something that hostcheck does not write
    if [ -L "$file" ]; then
        why="$target is a symbolic link"
        return 1
    fi
    if [ -e "$file" ] && ! [ -f "$file" ]; then
        why="$target is not a regular file"
        return 1
    fi
    size=0
    [ ! -e "$file" ] || size=$(wc -c <"$file") || size=0
    if [ $((size)) -gt "$largest" ]; then
        why="$target holds $((size)) bytes, and hostcheck keeps no file of more than $largest"
        return 1
    fi
    alien=
    [ -e "$file" ] || return 0
    text=$({ cat "$file" && echo .; } 2>&1) || {
        reason "$text"
        why="$target cannot be read: $why"
        return 1
    }
    text=${text%.}
    if [ $((size)) -ne ${#text} ]; then
        alien=yes
        why="$target holds something else than text"
        return 1
    fi
    now="=$text"
} 2>/dev/null

write_file() { # VALUE
    file=$root$target
    if [ "$1" = - ]; then
        attempt rm -f "$file" || return 1
    else
        make_folders "${target%/*}" || return 1
        put_file "$1" || return 1
    fi
    folders="$folders$nl${file%/*}"
}

make_folders() { # FOLDER: writes down which were made
    path=$root further=${1#/}/
    while [ -n "$further" ]; do
        path=$path/${further%%/*} further=${further#*/}
        [ ! -d "$path" ] || continue
        record "$number" made "${path#"$root"}" || return 1
        escape "${path#"$root"}"
        eval "made_$number=\$text\$nl\$made_$number"
        durable "$tx/journal"
        checkpoint made
        attempt mkdir -m 755 "$path" || {
            reason "$why"
            why="${path#"$root"} cannot be made: $why"
            return 1
        }
        folders="$folders$nl${path%/*}"
        checkpoint mkdir
    done
}

put_file() { # VALUE: into file, all at once
    temp=${file%/*}/.hostcheck-$id-$number
    saved=$tx/$number.before
    if [ -n "$was" ] && [ -f "$saved" ]; then
        # Back as it was, with its owner and its mode.
        attempt cp -a "$saved" "$temp" || return 1
    else
        [ ! -e "$file" ] || attempt cp -a "$file" "$temp" || return 1
        why=$({
            umask 022
            printf '%s' "${1#=}" 2>/dev/null | cat >"$temp"
        } 2>&1) || {
            rm -f "$temp"
            reason "$why"
            why="${file#"$root"} cannot be written: $why"
            return 1
        }
    fi
    checkpoint written
    durable "$temp"
    attempt mv -f "$temp" "$file" && return 0
    rm -f "$temp"
    return 1
}

read_unit() {
    text=$(systemctl show -p UnitFileState -p ActiveState -- "$target" 2>&1 </dev/null) || {
        reason "$text"
        why="systemctl says: $why"
        return 1
    }
    enabled='' active=''
    for word in $text; do
        case $word in
        UnitFileState=*) enabled=${word#*=} ;;
        ActiveState=*) active=${word#*=} ;;
        esac
    done
    # A unit that is not there is as one that does nothing: its file may be a change of the same plan.
    [ -n "$enabled" ] || enabled=disabled
    broken=
    if [ "$active" = failed ]; then # systemd's word for inactive, with a memory
        active=inactive
        broken=yes
    fi
    now="=$enabled $active"
}

write_unit() { # VALUE
    flush_reloads || return 1
    wanted=${1#=}
    read_unit || return 1
    have=${now#=}
    case $wanted in
    "${have%% *} "*) ;;
    enabled*) outside systemctl enable -- "$target" || return 1 ;;
    disabled*) outside systemctl disable -- "$target" || return 1 ;;
    *)
        why="hostcheck sets units to enabled or disabled, not to ${wanted%% *}"
        return 1
        ;;
    esac
    checkpoint enabled
    case $wanted in
    *" ${have#* }") ;;
    *' active') outside systemctl start -- "$target" ;;
    *' inactive') outside systemctl stop -- "$target" ;;
    *)
        why="hostcheck makes units active or inactive, not ${wanted#* }"
        return 1
        ;;
    esac
}

read_argument() { # grub|grubby NAME EXCEPT: what the kernel is to get at the next boot; without one file of GRUB
    case $1 in
    grubby)
        text=$(grubby --info=ALL 2>&1 </dev/null) || {
            reason "$text"
            why="grubby says: $why"
            return 1
        }
        kernels=
        IFS=$nl
        for line in $text; do
            IFS=$blank
            case $line in args=*) ;; *) continue ;; esac
            line=${line#args=\"}
            argument_in "$2" "${line%\"}"
            [ -z "$kernels" ] || [ "$kernels" = "$now" ] || {
                why="the installed kernels do not agree on $2"
                return 1
            }
            kernels=$now
        done
        IFS=$blank
        [ -n "$kernels" ] && return 0
        why='grubby knows no kernel'
        return 1
        ;;
    esac
    if ! [ -r "$root/etc/default/grub" ] || ! [ -d "$root/etc/default/grub.d" ] || ! command -v update-grub >/dev/null 2>&1; then
        why='this host has no GRUB that reads /etc/default/grub.d'
        return 1
    fi
    text=$(
        GRUB_CMDLINE_LINUX='' GRUB_CMDLINE_LINUX_DEFAULT=''
        set +f
        for file in "$root/etc/default/grub" "$root"/etc/default/grub.d/*.cfg; do
            # shellcheck disable=SC1090 # as update-grub reads them
            [ "$file" = "$3" ] || ! [ -r "$file" ] || . "$file" >/dev/null 2>&1 </dev/null
        done
        printf '%s %s' "$GRUB_CMDLINE_LINUX" "$GRUB_CMDLINE_LINUX_DEFAULT"
    ) || {
        why='the files of /etc/default/grub cannot be read as a shell reads them'
        return 1
    }
    argument_in "$2" "$text"
}

argument_in() { # NAME LINE: sets now; the last one counts
    name=$1 now=-
    for word in $2; do
        case $word in
        "$name") now='=' ;;
        "$name="*) now="=${word#*=}" ;;
        esac
    done
}

write_argument() { # grub|grubby NAME VALUE
    given=$2
    [ "$3" = - ] || [ "$3" = = ] || given=$2$3
    if [ "$1" = grubby ]; then
        if [ "$3" = - ]; then
            outside grubby --update-kernel=ALL "--remove-args=$2"
        else
            outside grubby --update-kernel=ALL "--args=$given"
        fi
        return
    fi
    file=$root/etc/default/grub.d/90-hostcheck-arguments.cfg
    read_argument "$1" "$2" "$file" || return 1
    added=
    if [ "$now" != "$3" ]; then
        if [ "$3" = - ]; then
            why="$2 is set by /etc/default/grub or a file in /etc/default/grub.d that is not hostcheck's"
            return 1
        fi
        added="GRUB_CMDLINE_LINUX_DEFAULT=\"\$GRUB_CMDLINE_LINUX_DEFAULT $given\""
    fi
    contents=
    if [ -e "$file" ]; then
        while IFS= read -r line; do
            case $line in
            *" $2=\"" | *" $2\"" | *" $2="*)
                line=$added
                added=
                ;;
            esac
            [ -z "$line" ] || contents=$contents$line$nl
        done <"$file"
    else
        contents="# Written by hostcheck tune; hostcheck tune rollback takes it away again.$nl"
    fi
    [ -z "$added" ] || contents=$contents$added$nl
    case $contents in
    *GRUB_CMDLINE*) put_file "=$contents" || return 1 ;;
    *) attempt rm -f "$file" || return 1 ;;
    esac
    folders="$folders$nl${file%/*}"
    checkpoint dropped
}

for_grub() { # whether a change of an argument is written, and waits for the configuration that GRUB boots by
    case $kind:$target in
    kernel-arg:grub\ *) arguments="$arguments $number" ;;
    *) return 1 ;;
    esac
}

configure() { # GRUB anew, once for all arguments: it takes seconds
    if outside update-grub; then
        checkpoint configured
    else
        why="GRUB's configuration could not be made: $why"
        return 1
    fi
}

gpu_folder() { # sets here, a folder for words of nvidia-smi; whether it is one for locks too, which end with the boot
    here=$root/run/hostcheck
    safe_folder /run/hostcheck && { [ -d "$here" ] || mkdir -m 755 "$here"; } && return 0
    here=$state
    return 1
} 2>/dev/null

answer_seconds=60 # of patience with nvidia-smi, which hangs where the driver does

ask_gpu() { # ARGUMENT...: of nvidia-smi; sets text to what it said; where it fails, why
    gpu_folder || :
    text='' late='' self=$$
    ! [ -r /proc/self/stat ] || read -r self _ </proc/self/stat # in a subshell another than $$
    trap 'late=yes' USR1
    rm -f "$here/said" # one that was left behind goes on in the old one
    nvidia-smi "$@" >"$here/said" 2>&1 </dev/null & # with the lock: killed, this leaves it at work
    asked=$!
    {
        left=$answer_seconds
        while [ "$left" -gt 0 ] && sleep 1; do
            read -r _ _ _ parent _ </proc/self/stat
            [ "$parent" = "$self" ] || exit
            left=$((left - 1))
        done
        kill -USR1 "$self"
    } </dev/null >/dev/null 2>&1 9>&- &
    clock=$!
    wait "$asked"
    code=$?
    kill -KILL "$clock" && wait "$clock"
    if [ -n "$late" ]; then
        # Not awaited, and without the lock in the end: in a call of the driver that never returns, nothing ends it.
        kill -KILL "$asked"
        trap 'flock -u 9' EXIT
        why="nvidia-smi did not answer in $answer_seconds s"
        return 1
    fi
    text=$(head -c 65536 "$here/said")
    rm -f "$here/said"
    [ "$code" != 0 ] || return 0
    why="nvidia-smi says: ${text##*"$nl"}"
    return 1
} 2>/dev/null

read_gpu() { # UUID SETTING
    case $2 in
    power-limit) field=power.limit ;;
    ecc) field=ecc.mode.pending ;;
    mig) field=mig.mode.pending ;;
    persistence) field=persistence_mode ;;
    compute-mode) field=compute_mode ;;
    mig-layout)
        read_layout "$1"
        return
        ;;
    sm-clock-lock | memory-clock-lock)
        read_lock "$1.$2"
        return
        ;;
    *)
        why="hostcheck does not know the GPU setting $2"
        return 1
        ;;
    esac
    ask_gpu -i "$1" "--query-gpu=$field" --format=csv,noheader,nounits || return 1
    now="=$text"
    [ -z "$text" ] || return 0
    why="nvidia-smi says nothing of $field"
    return 1
}

read_lock() { # NAME: nvidia-smi does not show it, so this is what hostcheck locked last in this boot, if anything
    now='?'
    if gpu_folder && [ -f "$here/$1" ] && ! [ -L "$here/$1" ] && read -r text <"$here/$1" && [ -n "$text" ]; then
        now="=$text"
    fi
} 2>/dev/null

read_layout() { # UUID: the profiles of its MIG instances, in any order
    ask_gpu mig -i "$1" -lgi || [ -z "$late" ] || return 1
    case $text in
    *'No GPU instances found: Not Found'*)
        now='=none'
        return 0
        ;;
    *'| GPU instances:'*) ;;
    *)
        why="nvidia-smi says: ${text##*"$nl"}"
        return 1
        ;;
    esac
    profiles
    instances=$found
    ask_gpu mig -i "$1" -lci || [ -z "$late" ] || return 1
    case $text in
    *'| Compute instances:'*) ;;
    *'No compute instances found: Not Found'*) ;;
    *)
        why="nvidia-smi says: ${text##*"$nl"}"
        return 1
        ;;
    esac
    profiles
    now="=$instances"
    same_profiles "$instances" "$found" || now="=$instances with compute instances ${found:-none}"
}

profiles() { # sets found, the profiles in the table that is in text
    found=
    IFS=$nl
    for line in $text; do
        IFS=$blank
        case $line in *'|'*[0-9]*' MIG '*'|') ;; *) continue ;; esac
        line=${line#*' MIG '}
        found=$found,${line%%' '*}
    done
    IFS=$blank
    found=${found#,}
}

same_profiles() { # LIST LIST
    others=,$2,
    IFS=,
    for profile in $1; do
        IFS=$blank
        case $others in *",$profile,"*) ;; *) return 1 ;; esac
        others=${others%%",$profile,"*},${others#*",$profile,"}
    done
    IFS=$blank
    [ "$others" = , ]
}

write_layout() { # UUID PROFILES: there is no other way from one layout to another than by none
    read_layout "$1" || return 1
    if [ "$now" != =none ]; then
        ask_gpu -i "$1" --query-compute-apps=pid --format=csv,noheader || return 1
        case $text in
        *[0-9]*)
            replace "$nl" ', '
            why="processes run on its MIG instances: $text"
            return 1
            ;;
        esac
        case $now in
        *' none') ;;
        *) ask_gpu mig -i "$1" -dci || return 1 ;;
        esac
        checkpoint emptied
        ask_gpu mig -i "$1" -dgi || return 1
        checkpoint removed
    fi
    [ "$2" = none ] || ask_gpu mig -i "$1" -cgi "$2" -C
}

write_gpu() { # UUID SETTING VALUE
    value=${3#=} lock=
    case $2 in
    mig-layout)
        write_layout "$1" "$value"
        return
        ;;
    *-lock)
        if gpu_folder; then
            lock=$here/$1.$2
            attempt rm -f "$lock" || return 1 # from here on nobody knows it, however this ends
            checkpoint forgotten
        fi
        ;;
    esac
    case $2:$3 in
    power-limit:=*) set -- "$1" -pl "$value" ;;
    ecc:=Enabled) set -- "$1" -e 1 ;;
    ecc:=Disabled) set -- "$1" -e 0 ;;
    mig:=Enabled) set -- "$1" -mig 1 ;;
    mig:=Disabled) set -- "$1" -mig 0 ;;
    persistence:=Enabled) set -- "$1" -pm 1 ;;
    persistence:=Disabled) set -- "$1" -pm 0 ;;
    compute-mode:=Default) set -- "$1" -c 0 ;;
    compute-mode:=Prohibited) set -- "$1" -c 2 ;;
    compute-mode:=Exclusive_Process) set -- "$1" -c 3 ;;
    sm-clock-lock:-) set -- "$1" -rgc ;;
    sm-clock-lock:=*) set -- "$1" -lgc "$value" ;;
    memory-clock-lock:-) set -- "$1" -rmc ;;
    memory-clock-lock:=*) set -- "$1" -lmc "$value" ;;
    *)
        why="hostcheck does not know how to set $2 to $value"
        return 1
        ;;
    esac
    ask_gpu -i "$@" || return 1
    [ -n "$lock" ] && [ "$value" != - ] || return 0
    checkpoint locked
    # Where it cannot be kept, it is not known, as that of another tool.
    (umask 022 && printf '%s\n' "$value" >"$lock.new" && mv -f "$lock.new" "$lock") 2>/dev/null || :
}

read_mount() {
    text=$target
    replace \\ '\134'
    replace ' ' '\040'
    replace "$tab" '\011'
    replace "$nl" '\012'
    while read -r _ point _ options _; do
        [ "$point" != "$text" ] || now="=$options"
    done <"$root/proc/self/mounts"
} 2>/dev/null

write_mount() { # VALUE
    if [ "$1" = - ]; then
        why='hostcheck does not unmount'
        return 1
    fi
    given=
    read_mount
    IFS=,
    for option in ${now#=}; do
        # `mount` adds to what is there: what is to go is named by its opposite.
        case ,${1#=},:$option in
        *,"$option",*:*) ;;
        *:no*) given=$given,${option#no} ;;
        *:sync) given=$given,async ;;
        *:lazytime | *:discard) given=$given,no$option ;;
        esac
    done
    for option in ${1#=}; do
        # What a file system shows, and does not take.
        case $option in seclabel) ;; *) given=$given,$option ;; esac
    done
    IFS=$blank
    # Without a word the kernel takes relatime; strictatime is shown by no word.
    case $given, in *,noatime,* | *,relatime,* | *,strictatime,*) ;; *) given=$given,strictatime ;; esac
    attempt mount -o "remount$given" "$root$target"
}

read_swap() {
    text=$root$target
    replace \\ '\134'
    replace ' ' '\040'
    replace "$tab" '\011'
    replace "$nl" '\012'
    while read -r area _ _ _ priority; do
        [ "$area" != "$text" ] || now="=$priority"
    done <"$root/proc/swaps"
} 2>/dev/null

write_swap() { # VALUE
    read_swap
    [ "$now" = - ] || attempt swapoff "$root$target" || return 1
    checkpoint off
    case $1 in
    -) ;;
    =-*) attempt swapon "$root$target" ;; # a negative one is the kernel's own choice
    *) attempt swapon -p "${1#=}" "$root$target" ;;
    esac
}

read_module() {
    text=$target
    replace - _
    [ ! -d "$root/sys/module/$text" ] || now='='
}

write_module() { # VALUE
    case $1 in
    -) attempt rmmod "$target" ;; # and not what it drew in, which may have been there before
    *) attempt modprobe "$target" ;;
    esac
}

flush_reloads() { # once for all that was changed, and before a unit is started
    for who in $reloads; do
        case $who in
        systemd) [ ! -d "$root/run/systemd/system" ] || attempt systemctl daemon-reload || return 1 ;;
        udev) [ ! -e "$root/run/udev/control" ] || attempt udevadm control --reload || return 1 ;;
        esac
    done
    reloads=
}

due() { # WHO: must read again what was changed
    case " $reloads " in
    *" $1 "*) ;;
    *) [ "$1" = - ] || reloads="$reloads $1" ;;
    esac
}

# --- Forward -------------------------------------------------------------------------------------------------------

change() { # N KIND TARGET BEFORE AFTER SCOPE RELOAD CUTS TUNER FIXES WHY
    number=$1 kind=$2 target=$3 before=$4 after=$5 reload=$7 was=''
    case $mode in
    look) look ;;
    note) [ -n "$failed" ] || note "$@" || failed=$why ;;
    act)
        eval "was=\$same_$number"
        [ -z "$failed$was" ] || return 0
        [ "$8" != cuts ] || watch
        act || failed="change $number: $why"
        ;;
    esac
}

look() { # whether a change finds what its plan says
    total=$number
    eval "same_$number="
    if [ "$kind" = file ] && ! safe_folder "${target%/*}"; then
        step "$number" refused "$why"
        moved=yes
    elif ! read_value; then
        step "$number" refused "$why"
        moved=yes
    elif same "$now" "$after"; then
        eval "same_$number=yes"
        step "$number" same ''
    elif [ "$now" = '?' ] || same "$now" "$before"; then
        differs=yes
    else
        differs_how
        step "$number" moved "$why"
        moved=yes
    fi
}

differs_how() { # sets why
    show "$now"
    case $kind:$now in
    *:-) why="$target is not there" ;;
    file:=*[Hh]ostcheck*) why="$target was changed since the plan was made; it now holds: $text" ;;
    file:*) why="$target is there already, and not by hostcheck; it holds: $text" ;;
    *)
        why="$target is now $text"
        show "$before"
        why="$why, and was $text when the plan was made"
        ;;
    esac
}

note() { # the arguments of change: written down before anything is begun
    planned=$1
    shift
    record "$planned" plan "$1" "$2" "$3" "$4" "$5" "$6" "$8" "$9" "${10}" || return 1
    eval "was=\$same_$planned"
    [ -z "$was" ] || record "$planned" same
}

act() { # one change; where it fails, why says so
    checkpoint before
    if ! read_value; then
        step "$number" refused "$why"
        return 1
    fi
    if [ "$now" != '?' ] && ! same "$now" "$before"; then
        differs_how
        step "$number" moved "$why"
        return 1
    fi
    set -- "$tx/journal"
    if [ "$kind" = file ] && [ "$before" != - ]; then
        attempt cp -a "$root$target" "$tx/$number.before" || {
            reason "$why"
            why="no copy of $target could be kept: $why"
            step "$number" failed "$why"
            return 1
        }
        set -- "$@" "$tx/$number.before" "$tx"
        checkpoint saved
    fi
    record "$number" intent || {
        step "$number" failed "$why"
        return 1
    }
    eval "state_$number=intent"
    checkpoint intent
    durable "$@"
    checkpoint durable
    tell step "$number" intent ''
    due "$reload"
    if ! write_value "$after"; then
        step "$number" failed "$why"
        return 1
    fi
    checkpoint acted
    for_grub || taken
}

taken() { # whether the change that was made is there, which is then its end; where it is not, why says so
    if ! read_value; then
        step "$number" failed "$why"
        return 1
    fi
    if [ "$now" != '?' ] && ! same "$now" "$after"; then
        show "$now"
        why="it was accepted and did not take: $target is $text"
        show "$after"
        why="$why, and not $text"
        step "$number" failed "$why"
        return 1
    fi
    eval "state_$number=applied"
    record "$number" applied || {
        step "$number" failed "$why"
        return 1
    }
    checkpoint applied
    tell step "$number" applied ''
}

taken_arguments() { # the same of all that waited for GRUB's configuration
    [ -n "$arguments" ] || return 0
    if configure; then
        for at in $arguments; do
            recall "$at"
            taken || failed=${failed:-"change $at: $why"}
        done
    else
        for at in $arguments; do step "$at" failed "$why"; done
        failed=${failed:-$why}
    fi
    arguments=
}

begin() { # a transaction of its own, with all that is planned
    newest
    id=$((last + 1)) tx=$state/tx/$((last + 1)) torn='' booted=$boot
    attempt mkdir "$tx" || refuse "$why"
    checkpoint mkdir
    why=$({ : >"$tx/open"; } 2>&1) || {
        rmdir "$tx"
        reason "$why"
        refuse "$tx cannot be written: $why"
    }
    checkpoint open
    head -c 16384 /dev/zero >"$tx/room" 2>/dev/null # where the disk is full later, it can still be said what was taken back
    mode=note
    if record 0 journal 1 "$id" "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$1" "$2" "${boot:--}" "$3" "$total"; then
        changes
    else
        failed=$why
    fi
    checkpoint noted
    if [ -n "$failed" ]; then
        rm -rf "$tx"
        refuse "$failed"
    fi
    durable "$tx/journal" "$tx" "$state/tx" "$state" "$root/var/lib"
    load "$id"
    tell begin "$id"
    checkpoint begun
}

for_host() { # NAME MACHINE BOOT: stops on any other; BOOT is "-" where the plan knows no value of a boot
    machine=
    [ -r "$root/etc/machine-id" ] && read -r machine <"$root/etc/machine-id"
    [ "$machine" = "$2" ] || refuse "the plan was made for $1 (machine ${2:-without a machine-id}), and this host is another"
    [ "$3" = - ] || [ "$boot" = "$3" ] ||
        refuse 'the host was started anew since the plan was made, and its values may be others; make a new plan'
}

apply() { # TOOL HOST ROLE MACHINE BOOT SECONDS all|rest
    tell 'hostcheck-tune 1'
    prepare "applying a plan for $2"
    ! unfinished || refuse "transaction$open was not brought to an end: run hostcheck tune recover first"
    for_host "$2" "$4" "$5"
    moved='' differs='' seconds=$6 total=0
    mode=look
    changes
    [ -z "$moved" ] || refuse 'this host is not as the plan says, and nothing was changed; make a new plan'
    [ -n "$differs" ] || finish - nothing 'everything is as the plan says'
    begin "$1" "$2" "$3"
    mode=act
    changes
    if [ -z "$failed" ] || [ "$7" = rest ]; then taken_arguments; fi
    [ -n "$failed" ] || flush_reloads || failed="reading the new files again: $why"
    [ -z "$failed" ] || stop "$7"
    if [ -n "$confirming" ]; then
        close awaiting "$seconds" || stop all
        finish "$id" awaiting "$seconds"
    fi
    close committed || stop all
    finish "$id" committed ''
}

watch() { # take all back unless it is confirmed in time; this outlives the connection
    [ -z "$confirming" ] || return 0
    confirming=yes
    (
        exec 9>&- </dev/null >/dev/null 2>&1
        left=$seconds
        while [ "$left" -gt 0 ] && [ -e "$tx/open" ]; do
            sleep 1
            left=$((left - 1))
        done
        exec 9>>"$state/lock"
        flock 9
        [ -e "$tx/open" ] || exit 0
        # shellcheck disable=SC2030 # all of it happens in here
        failed="it was not confirmed within $seconds s"
        load "$id" || exit 1
        take_back
        end_back
    ) &
}

stop() { # all|rest: after a failure, take all back, or only what was not brought to its end
    # shellcheck disable=SC2031
    [ -n "$failed" ] || failed=$why
    [ "$1" = all ] || keeping=yes
    take_back
    end_back
}

# --- Back ----------------------------------------------------------------------------------------------------------

keeping= # whether what was applied stays
only=' ' # numbers of the changes to take back; blank for all

take_back() { # the loaded transaction, in reverse
    arguments=
    back=$count
    while [ "$back" -gt 0 ]; do
        case $only in ' ' | *" $back "*) undo "$back" ;; esac
        back=$((back - 1))
    done
    flush_reloads || {
        stuck=yes
        echo "hostcheck: what was changed back was not read again: $why" >&2
    }
    [ -n "$arguments" ] || return 0
    configured=yes
    configure || configured=
    for at in $arguments; do
        recall "$at"
        if [ -n "$configured" ] && is_back; then undone; else not_undone; fi
    done
}

recall() { # N: what the journal says of a change
    number=$1
    eval "was=\$state_$1 kind=\$kind_$1 reload=\$reload_$1"
    eval "unescape \"\$target_$1\""
    target=$text
    eval "unescape \"\$before_$1\""
    before=$text
    eval "unescape \"\$after_$1\""
    after=$text
}

undo() { # N
    recall "$1"
    case $was in
    planned) [ -n "$recovering" ] || return 0 ;;
    applied) [ -z "$keeping" ] || return 0 ;;
    intent | stuck) ;;
    *) return 0 ;;
    esac
    checkpoint undo
    alien=
    if ! on_our_way || ! read_value; then
        if [ "$was" = planned ]; then
            return 0
        fi
        if [ -n "$alien" ]; then
            leave "$why: somebody changed it since"
        else
            not_undone
        fi
        return 0
    fi
    if [ "$was" = planned ]; then
        if same "$now" "$after"; then
            leave "$target stands as it was planned, though the journal does not say that this was begun"
        fi
        return 0
    fi
    due "$reload"
    if is_before; then
        :
    elif ! is_ours; then
        show "$now"
        leave "$target is now $text, which is not what was set: somebody changed it since"
        return 0
    elif ! write_value "$before"; then
        not_undone
        return 0
    elif for_grub; then
        return 0
    elif ! is_back; then
        not_undone
        return 0
    fi
    undone
}

is_back() { # whether the old value stands there again; where it does not, why says so
    read_value || return 1
    [ "$now" != '?' ] && ! same "$now" "$before" || return 0
    show "$now"
    why="the old value was accepted and did not take: $target is $text"
    return 1
}

undone() { # the change, to its end
    checkpoint undone
    note=
    tidy
    eval "state_$number=undone"
    record "$number" undone
    step "$number" undone "$note"
    checkpoint recorded
}

on_our_way() { # whether nobody can have put something else where a file was written
    alien=yes
    [ "$kind" != file ] || safe_folder "${target%/*}" || return 1
    alien=
}

is_before() { # whether nothing is to be done
    case $now in
    '?') [ "$booted" != "${boot:--}" ] ;; # what was set went with the boot
    # The file may be back, and the configuration that is made of it not yet.
    *) [ "$kind" != kernel-arg ] && same "$now" "$before" ;;
    esac
}

is_ours() { # whether what stands there is what this transaction set, or half set
    case $kind:$now in
    *:'?') return 0 ;;
    write:- | nic:-) return 1 ;; # the device is gone
    esac
    same "$now" "$after" && return 0
    [ "$kind" != kernel-arg ] || ! same "$now" "$before" || return 0
    # Begun and not ended, in this boot: a file is there whole or not at all, anything else may be half done.
    [ "$was" != applied ] && [ "$kind" != file ] && [ "$booted" = "${boot:--}" ]
}

tidy() { # what is left beside a file, and that a unit did not start for us
    case $kind:$broken:$was in
    unit:yes:intent) outside systemctl reset-failed -- "$target" || : ;;
    esac
    case $kind in
    file) rm -f "$root${target%/*}/.hostcheck-$id-$number" ;;
    kernel-arg) rm -f "$root/etc/default/grub.d/.hostcheck-$id-$number" ;;
    *) return 0 ;;
    esac
    eval "text=\$made_$number"
    IFS=$nl
    for folder in $text; do
        IFS=$blank
        unescape "$folder"
        [ ! -d "$root$text" ] || attempt rmdir "$root$text" || note="$text holds something else, and stays"
    done
    IFS=$blank
}

leave() { # WHY
    [ -n "$alien" ] || tidy
    record "$number" left
    step "$number" left "$1"
}

not_undone() { # why says so
    stuck=yes
    record "$number" stuck
    step "$number" stuck "$why"
}

end_back() { # what the transaction is now, and the end
    close_back
    finish "$id" "$closing" "$back"
}

close_back() { # sets closing and back
    back=$failed
    [ -z "$damaged" ] || back="${back:+$back; }its journal is cut short or damaged, and what it does not name was not looked at"
    if [ -n "$stuck" ]; then
        closing=unfinished
        back="${back:+$back; }not everything could be taken back: mend the cause and run hostcheck tune recover"
        return
    fi
    case $only:$keeping in
    ' :') closing=rolled-back ;;
    ' :yes') closing=stopped ;;
    *) # as it was, less the changes that were asked for
        closing=rolled-back
        at=1
        while [ "$at" -le "$count" ]; do
            eval "was=\$state_$at"
            case $was in applied | intent) closing=${stands:-committed} ;; esac
            at=$((at + 1))
        done
        ;;
    esac
    close "$closing" ${back:+"$back"} || {
        back="${back:+$back; }$why"
        closing=unfinished
    }
}

again() { # ID: take back a transaction that was at its end
    load "$1" || refuse "$why"
    only=" ${2:+$2 }"
    why=$({ : >"$tx/open"; } 2>&1) || {
        reason "$why"
        refuse "$tx cannot be written: $why"
    }
    checkpoint reopened
    record 0 rolling-back ${2:+"$2"} || refuse "$why"
    durable "$tx/journal" "$tx"
    checkpoint rolling
    tell begin "$id"
    take_back
    close_back
}

touched() { # add what the loaded transaction changed, and has not taken back, to targets; sets shared to what was there
    shared=
    at=1
    while [ "$at" -le "$count" ]; do
        eval "was=\$state_$at text=\"\$kind_$at \$target_$at\""
        case $was:$only in
        applied:' ' | applied:*" $at "*)
            case $targets in *"$nl$text$nl"*) shared=$text ;; esac
            mine="$mine$text$nl"
            ;;
        esac
        at=$((at + 1))
    done
}

rollback() { # ID|last alone|newer [NUMBERS]
    tell 'hostcheck-tune 1'
    prepare 'rolling back'
    ! unfinished || refuse "transaction$open was not brought to an end: run hostcheck tune recover first"
    wanted=$1
    if [ "$1" = last ]; then
        wanted='' newer=''
        for n in $ids; do newer="$n $newer"; done
        for n in $newer; do
            load "$n" || refuse "$why"
            [ "$ended" = rolled-back ] || {
                wanted=$n
                break
            }
        done
        [ -n "$wanted" ] || finish - nothing 'there is no transaction to take back'
    fi
    load "$wanted" || refuse "$why"
    [ "$ended" != rolled-back ] || finish "$id" rolled-back 'it was taken back before'
    only=" ${3:+$3 }"
    targets=$nl mine=
    touched
    targets=$targets$mine
    chain=$wanted
    for n in $ids; do
        [ "$n" -gt "$wanted" ] || continue
        load "$n" || refuse "$why"
        mine=
        touched
        [ -n "$shared" ] || continue
        [ "$2" = newer ] ||
            refuse "transaction $n changed the same after it (${shared#* }): take that back first, or both with --with-newer"
        targets=$targets$mine
        chain="$n $chain"
    done
    for n in $chain; do
        numbers=
        [ "$n" != "$wanted" ] || numbers=${3:-}
        again "$n" "$numbers"
        if [ "$n" = "$wanted" ] || [ "$closing" = unfinished ]; then
            finish "$id" "$closing" "$back"
        fi
        tell end "$id" "$closing" "$back"
    done
}

recover() {
    tell 'hostcheck-tune 1'
    prepare recovering
    unfinished || finish - nothing 'no transaction was left unfinished'
    recovering=yes
    all=''
    for n in $open; do all="$n $all"; done
    bad=
    for n in $all; do
        load "$n" || refuse "$why"
        case $ended in
        committed | stopped | rolled-back)
            rm -f "$tx/open"
            closing=$ended back=
            ;;
        *)
            tell begin "$id"
            stuck=
            take_back
            close_back
            ;;
        esac
        tell end "$id" "$closing" "$back"
        [ "$closing" != unfinished ] || {
            bad=yes
            echo "hostcheck: transaction $id: $back" >&2
        }
    done
    [ -z "$bad" ] || exit 1
    exit 0
}

confirm() { # ID
    tell 'hostcheck-tune 1'
    prepare 'confirming'
    load "$1" || refuse "$why"
    case $ended in
    awaiting) close committed || refuse "$why" ;;
    committed) ;;
    rolled-back)
        failed=late
        finish "$id" rolled-back 'it was taken back before it was confirmed'
        ;;
    *) refuse "transaction $1 does not wait to be confirmed" ;;
    esac
    finish "$id" committed ''
}

list() { # all transactions, with their journals
    tell 'hostcheck-tune 1'
    uid=$(id -u)
    safe_folder /var/lib/hostcheck/tx || refuse "$why"
    for folder in "$root/var/lib" "$state" "$state/tx"; do
        [ -e "$folder" ] || finish - nothing 'nothing was ever changed here'
        [ -x "$folder" ] || refuse "$folder cannot be read; run this as root"
    done
    [ -r "$state/tx" ] || refuse "$state/tx cannot be read; run this as root"
    newest
    for n in $ids; do
        word=closed
        [ ! -e "$state/tx/$n/open" ] || word=open
        tell transaction "$n" "$word"
        [ -r "$state/tx/$n/journal" ] || continue
        more=yes
        while [ -n "$more" ]; do
            IFS= read -r line || more=
            [ -z "$line" ] || printf 'journal\t%s\n' "$line"
        done <"$state/tx/$n/journal"
    done
    finish - nothing ''
}
