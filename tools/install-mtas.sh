#!/bin/sh
# Install what the fixtures `postfix` and `sendmail` of pmilter.testing need, on Debian 12 or 13.
#
# Postfix is installed from its package, without a configuration and without starting it. Sendmail's package
# conflicts with that one, so it is only unpacked, to $PMILTER_SENDMAIL (default /opt/pmilter-sendmail).
# Run it as root, or as a user who may sudo; running it again does nothing.
set -eu
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

prefix=${PMILTER_SENDMAIL:-/opt/pmilter-sendmail}
policy=/usr/sbin/policy-rc.d
work=
made_policy=

say() { echo "install-mtas: $*" >&2; }

clean_up() {
    [ -z "$work" ] || rm -rf "$work"
    [ -z "$made_policy" ] || rm -f "$policy"
}

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

sendmail_complete() {
    [ -x "$prefix/usr/libexec/sendmail/sendmail" ] && [ -f "$prefix/usr/share/sendmail/cf/m4/cf.m4" ]
}

missing_libraries() {
    ldd "$prefix/usr/libexec/sendmail/sendmail" 2>/dev/null | grep -q 'not found'
}

missing_packages() {
    for package in postfix m4 gcc libc6-dev; do
        installed "$package" || echo "$package"
    done
}

all_there() { [ -z "$(missing_packages)" ] && sendmail_complete && ! missing_libraries; }

# Package scripts ask this file whether they may start a daemon; the answer is no (exit status 101).
forbid_daemons() {
    [ ! -e "$policy" ] || return 0
    made_policy=yes
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
}

# The libraries that the unpacked program wants have other names in each release of Debian: apt knows them.
# --no-remove: never replace the mail server that a machine already has.
install_packages() {
    if ! installed postfix; then
        echo "postfix postfix/main_mailer_type select No configuration" | debconf-set-selections
    fi
    libraries=$(apt-cache depends --important sendmail-bin | sed -n 's/^ *|*Depends: \(lib[^<>]*\)$/\1/p')
    # shellcheck disable=SC2086  # word splitting is meant
    apt-get install -y -qq --no-install-recommends --no-remove -o Dpkg::Use-Pty=0 \
        postfix m4 gcc libc6-dev $libraries > "$work/apt.log" 2>&1 || {
        cat "$work/apt.log" >&2
        say "apt-get could not install the packages; is another mail server installed here?"
        exit 1
    }
}

# A set-group-id program has no business outside its package.
unpack_sendmail() (
    cd "$work"
    apt-get download -qq -o APT::Sandbox::User=root sendmail-bin sendmail-base sendmail-cf
    mkdir -p "$prefix"
    for package in *.deb; do
        dpkg -x "$package" "$prefix"
    done
    chmod 0755 "$prefix" "$prefix/usr/libexec/sendmail/sendmail"
)

if all_there; then
    say "Postfix and Sendmail are in place"
    exit 0
fi
if [ "$(id -u)" != 0 ]; then
    exec sudo PMILTER_SENDMAIL="$prefix" sh "$0" "$@"
fi

trap clean_up EXIT
trap 'exit 1' HUP INT TERM
work=$(mktemp -d)
apt-cache show sendmail-bin postfix > /dev/null 2>&1 || apt-get update -qq
forbid_daemons
install_packages
sendmail_complete || unpack_sendmail
all_there || {
    ldd "$prefix/usr/libexec/sendmail/sendmail" >&2 || true
    say "something is still missing: $(missing_packages)"
    exit 1
}
say "Postfix $(postconf -d -h mail_version) is installed; Sendmail is unpacked in $prefix"
