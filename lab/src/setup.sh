# Makes a node's private file system, says so, and keeps its namespaces alive. $1: host name. $2: a scratch directory.
set -e
echo "$1" >/proc/sys/kernel/hostname
mount -t tmpfs -o mode=755 tmpfs "$2"
for top in etc var; do
    mkdir "$2/$top" "$2/$top/upper" "$2/$top/work"
    mount -t overlay overlay -o "lowerdir=/$top,upperdir=$2/$top/upper,workdir=$2/$top/work" "/$top"
done
mount -t tmpfs -o mode=755 tmpfs /run
echo ready
exec sleep infinity
