#!/usr/bin/env bash
# The quick start, from nothing to a VM that one can log in to: a small guest
# image, served from this machine, and examples/quickstart.yaml.
#
# Run `make setup build` first, or use `make demo`. It can be repeated: what is
# there already is kept. `bin/orlop down --guests` ends it.
# shellcheck disable=SC2317 # functions are called by the trap and through timed
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
bin=$root/bin
export ORLOP_HOME=${ORLOP_HOME:-$root/.orlop}
export KUBECONFIG=$ORLOP_HOME/kubeconfig
address=127.0.0.1:18480 # where examples/quickstart.yaml looks for the image
wait=${ORLOP_DEMO_TIMEOUT:-15m}
vm=linux-vm
times=()
server=''

say() { printf '\n== %s\n' "$*"; }
kubectl() { "$bin/kubectl" "$@"; }

# timed NAME COMMAND...: runs COMMAND and remembers how long it took.
timed() {
	local name=$1 start=$EPOCHREALTIME
	shift
	say "$name"
	"$@"
	times+=("$(awk -v a="$start" -v b="$EPOCHREALTIME" 'BEGIN { printf "%.1f", b - a }') $name")
}

# serve_image starts the server unless one with this image is there.
serve_image() {
	local waited
	"$bin/orlop" dev serve --address "$address" "$ORLOP_HOME/guest" &
	server=$!
	for ((waited = 0; waited < 100; waited++)); do
		curl --silent --fail --output /dev/null --head "http://$address/micro.qcow2" && return
		kill -0 "$server" 2>/dev/null || break
		sleep 0.1
	done
	echo "demo: the image can't be served at http://$address: is the port taken?" >&2
	return 1
}

stop_server() {
	[ -z "$server" ] || kill "$server" 2>/dev/null || true
}

wait_for() { # KIND/NAME JSONPATH=VALUE
	kubectl wait "$1" --for=jsonpath="$2" --timeout="$wait"
}

# A failure shows what the objects say.
explain() {
	[ $? -eq 0 ] || kubectl describe vi,vd,vm 2>/dev/null | tail -n 80 >&2 || true
	stop_server
}

print_times() {
	say 'slowest steps, in seconds'
	printf '%s\n' "${times[@]}" | sort -rn | head -n 5
}

print_result() {
	say 'done'
	kubectl get vi,vd,vm -o wide
	cat <<-END

		Log in at the serial console (user cloud, password cloud; Ctrl+] leaves):
		  $bin/orlop console $vm
		or by ssh:
		  $bin/orlop ssh cloud@$vm
		Stop everything, guests too:
		  $bin/orlop down --guests
	END
}

main() {
	trap explain EXIT
	timed 'guest image' "$root/deploy/guest/build-micro.sh"
	timed 'image server' serve_image
	timed 'orlop up' "$bin/orlop" up --allow-image-source 127.0.0.0/8
	timed 'apply the quick start' kubectl apply -f "$root/examples/quickstart.yaml"
	timed 'image is Ready' wait_for vi/ubuntu '{.status.phase}=Ready'
	timed 'disk is Ready' wait_for vd/linux-disk '{.status.phase}=Ready'
	timed 'VM is Running' wait_for "vm/$vm" '{.status.phase}=Running'
	timed 'guest agent is ready' kubectl wait "vm/$vm" --for=condition=AgentReady --timeout="$wait"
	print_result
	print_times
}

# On one line: the file may change while it runs.
main "$@"; exit
