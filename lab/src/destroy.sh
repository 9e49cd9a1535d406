# Ends every process in the namespaces of one run and removes them. Safe to run twice, or half-way through a start.
# $1: the run's directory. $2 = wait: begin when stdin ends, that is when the owner is gone for whatever reason.
trap '' HUP INT TERM
run=$1
if [ "${2-}" = wait ]; then cat >/dev/null; fi
[ -d "$run" ] || exit 0
failed=0
if [ -f "$run/namespaces" ]; then
    while read -r namespace; do
        # A process may fork between the look and the kill; a few rounds catch the child too.
        for _ in 1 2 3 4 5 6 7 8 9 10; do
            pids=$(ip netns pids "$namespace" 2>/dev/null) || break
            [ -n "$pids" ] || break
            # shellcheck disable=SC2086
            kill -9 $pids 2>/dev/null
            sleep 0.02
        done
        if [ -e "/run/netns/$namespace" ]; then ip netns del "$namespace" || failed=1; fi
    done <"$run/namespaces"
fi
[ "$failed" = 0 ] && rm -rf "$run"
exit "$failed"
