#!/bin/sh
# Installs the Debian packages that the benchmarks compare with. May be run again; needs root or
# sudo. What is not installed is skipped by the suite, so this is never needed for pmilter itself.
set -eu

packages="gcc libc6-dev libmilter-dev python3-milter libsendmail-pmilter-perl golang-go
    golang-github-emersion-go-milter-dev"

missing=
for package in $packages; do
    state=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$state" = installed ] || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

as_root=
[ "$(id -u)" -eq 0 ] || as_root=sudo
$as_root apt-get -o DPkg::Lock::Timeout=300 update -qq
# shellcheck disable=SC2086 # a list of words
$as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install -y -qq \
    --no-install-recommends $missing
