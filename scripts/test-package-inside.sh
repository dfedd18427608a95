#!/usr/bin/env bash
# The part of test-package.sh that runs on the empty Debian. Of the machine's own it has the network and the processor.
# test-package-inside.sh PG, in a folder with packages/, upgrade/, README.md and install.md
set -euo pipefail
PG="$1"
LIMIT=120
IBAN="DE89 3704 0044 0532 0130 00"
# What doctor says of every server as the page makes it, and what it may say of the machine below.
NOTICES=key_on_same_disk,literals_shown,no_recovery,one_person,provider_note
MACHINE="swap_in_use"
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PG

die() {
    echo "error: $*" >&2
    tail -n 20 "/var/log/postgresql/postgresql-$PG-main.log" >&2 2>/dev/null || true
    exit 1
}
is() { # what found expected
    [ "$2" = "$3" ] || die "$1: '$2', not '$3'"
    echo "ok: $1"
}
quietly() { # what command…
    local what="$1"
    shift
    "$@" >"$what.log" 2>&1 || {
        tail -n 30 "$what.log" >&2
        die "$what failed"
    }
}
# This Debian has neither sudo nor systemd: the commands of pages get these.
sudo() {
    if [ "$1" = -u ]; then
        local user="$2"
        shift 2
        (cd / && runuser -u "$user" -- env "USER=$user" "$@")
    else
        "$@"
    fi
}
# The drop-in has systemd lift the limit on locked memory; where a container's root may not, this right stands for it.
systemctl() { # restart postgresql@PG-main
    [[ "$*" =~ ^restart\ postgresql@([0-9]+)-([a-z]+)$ ]] || die "systemctl $*"
    (ulimit -c 0 && setpriv --inh-caps=+ipc_lock --ambient-caps=+ipc_lock --init-groups --reuid=postgres --regid=postgres \
        pg_ctlcluster "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}" restart)
}
export -f die sudo systemctl
sql() { sudo -u postgres psql -X -A -t -q -v ON_ERROR_STOP=1 -d "${DATABASE:-postgres}" "$@"; }
first_value() { sql -c "SELECT colcrypt.decrypt_col(iban, colcrypt.place_context('customer.iban', id)) FROM customer WHERE id = 7"; }
restart() { systemctl restart "postgresql@$PG-main"; }

# Blocks of install.md between its marks, each into a file of its own, in order: 1.sh, 2.sql, …
mkdir steps
awk '/<!-- first value -->/ { on = 1 } /<!-- end -->/ { on = 0 }
    on && /^```[a-z]/ { file = "steps/" ++n "." substr($0, 4); next } /^```$/ { file = "" } on && file { print > file }' install.md
if [ "$(cat steps/*.sh | wc -l)" -lt 5 ] || [ "$(cat steps/*.sql | wc -l)" -lt 5 ]; then die "install.md has lost its steps"; fi
awk '/^## Install/ { on = 1 } /^## Try/ { on = 0 } /^```/ { inside = !inside; next } on && inside' README.md | sed 's/ && /\n/' |
    while read -r command; do grep -Fqx -- "$command" steps/*.sh || die "README.md installs by '$command', install.md does not"; done
sed -i "s/\b15\b/$PG/g" steps/*.sh
step() { # file
    case "$1" in
    *.sh) (cd packages && bash -euxo pipefail "$OLDPWD/$1") ;;
    *.sql) sql -f - <"$1" ;;
    esac
}

mount -t tmpfs tmpfs /dev/shm 2>/dev/null || true
quietly lists apt-get update -qq
# What Debian brings is fetched before the clock runs: that is the network's time. Installing it counts.
began="$(date +%s%N)"
seconds() { echo "$((($(date +%s%N) - began) / 1000000000))"; }
quietly download apt-get install -qq --download-only ./packages/*.deb
echo "Debian's packages fetched: $(seconds) s, $(du -csh /var/cache/apt/archives/*.deb | awk 'END { print $1 }')"

began="$(date +%s%N)"
installed=
for file in $(cd steps && printf '%s\n' * | sort -n); do
    quietly "step-$file" step "steps/$file"
    [ -n "$installed" ] || installed="$(seconds)"
done
is "the first value" "$(first_value)" "$IBAN"
took="$(seconds)"
echo "installed after $installed s; a first value encrypted and read, and doctor asked, after $took s"
[ "$took" -lt "$LIMIT" ] || die "that took more than $LIMIT s"
grep -q 'set shared_preload_libraries colcrypt' step-1.sh.log || die "the package does not say what to do next"
grep -q '^0 critical, 0 warnings, ' ./*.sh.log || die "doctor is not asked, or finds something"
found="$(sql -c "SELECT string_agg(DISTINCT finding COLLATE \"C\", ',' ORDER BY finding COLLATE \"C\") FROM colcrypt.doctor() WHERE finding <> '$MACHINE'")"
is "what doctor notes" "$found" "$NOTICES"

is "the program is on PATH" "$(command -v colcrypt)" /usr/bin/colcrypt
agent="$(sql -c 'SELECT agent_pid FROM colcrypt.broker_status()')"
is "the server started the packaged agent" "$(readlink "/proc/$agent/exe")" /usr/bin/colcrypt
for page in colcrypt colcrypt-keygen colcrypt-doctor colcrypt-nodes-rotate; do
    [ -f "/usr/share/man/man1/$page.1.gz" ] || die "no man page $page"
done
# shellcheck disable=SC2016  # for the other shell
is "completion" "$(bash -c '. /usr/share/bash-completion/completions/colcrypt; COMP_WORDS=(colcrypt keyg); COMP_CWORD=1
    _colcrypt colcrypt keyg colcrypt; echo "${COMPREPLY[*]}"')" keygen
is "locked memory" "$(grep '^Limit' '/usr/lib/systemd/system/postgresql@.service.d/colcrypt.conf')" LimitMEMLOCK=infinity
is "memory is locked at that limit" "$(sql -c 'SELECT memory_locked FROM colcrypt.broker_status()')" t
is "the example is installed" "$(ls /usr/share/doc/colcrypt/examples)" colcrypt.conf
for package in colcrypt "postgresql-$PG-colcrypt"; do
    [ -s "/usr/share/doc/$package/copyright" ] || die "no copyright file of $package"
done
for file in /usr/bin/colcrypt "/usr/lib/postgresql/$PG/lib/colcrypt.so"; do
    echo "$file: $(du -h "$file" | cut -f 1)"
done
quietly apparmor apt-get install -qq --no-install-recommends apparmor
quietly apparmor-profile apparmor_parser --skip-kernel-load --skip-cache /etc/apparmor.d/usr.lib.colcrypt.agent
echo "ok: this Debian's AppArmor takes the profile"

# Nothing at all to find: two root keys in an HSM, four eyes, and no literals in logs.
quietly hsm apt-get install -qq softhsm2 opensc
usermod --append --groups softhsm postgres
for setting in log_min_error_statement=fatal track_activities=off; do
    pg_conftool "$PG" main set "${setting%=*}" "${setting#*=}"
done
restart
printf '%s\n' 4711471147114711 >/etc/colcrypt/hsm.pin
chown postgres: /etc/colcrypt/hsm.pin
chmod 0400 /etc/colcrypt/hsm.pin
quietly token sudo -u postgres softhsm2-util --init-token --free --label colcrypt --so-pin 47114711 --pin 4711471147114711
for root in 1 2; do
    quietly "root-$root" sudo -u postgres pkcs11-tool --module /usr/lib/softhsm/libsofthsm2.so --token-label colcrypt --login \
        --pin 4711471147114711 --keygen --key-type AES:32 --label "root-$root" --id "0$root" --sensitive --private
done
sudo -u postgres createdb strict
DATABASE=strict sql >/dev/null -c "CREATE EXTENSION colcrypt" -c "
    SELECT colcrypt.add_provider('hsm', 'pkcs11',
        '{\"module\": \"/usr/lib/softhsm/libsofthsm2.so\", \"slots\": [{\"label\": \"colcrypt\"}], \"pin_file\": \"/etc/colcrypt/hsm.pin\"}')" \
    -c "SELECT colcrypt.create_keyring('app', 'hsm', 'root-1')" -c "SELECT colcrypt.add_root('app', 'hsm', 'root-2')" \
    -c "SELECT colcrypt.create_key('k', 'app')" -c "SELECT colcrypt.require_four_eyes('app')" \
    -c "CREATE TABLE t (id int PRIMARY KEY, v colcrypt.ciphertext)" -c "SELECT colcrypt.register_column('t', 'v', 'k')" \
    -c "SELECT colcrypt.create_access_view('t')" -c "INSERT INTO t_access VALUES (1, 'value')"
is "under an HSM" "$(DATABASE=strict sql -c 'SELECT v FROM t_access')" value
found="$(DATABASE=strict sql -c "SELECT concat_ws(' ', severity, finding, object, detail) FROM colcrypt.doctor()
    WHERE finding <> '$MACHINE' AND (finding, left(detail, 13)) <> ('provider_problem', 'SoftHSM keeps')")"
is "nothing for doctor to find but that SoftHSM is no hardware" "$found" ""

# A database with the first release's catalog, and keys and values in it: they were made in this release's, and have the same form.
sudo -u postgres createdb early
early() { DATABASE=early sql -c "$1"; }
early "CREATE EXTENSION colcrypt VERSION '0.1.0'"
early "SELECT colcrypt.add_provider('other', 'file', '{\"path\": \"/etc/colcrypt/root.key\"}')" >/dev/null
refused="$(early "SELECT colcrypt.create_keyring('own', 'other')" 2>&1 || true)"
[[ "$refused" == *"is of another release than the library"*"ALTER EXTENSION colcrypt UPDATE"* ]] || die "a catalog of 0.1.0: $refused"
echo "ok: a catalog of the first release is named as one"
for table in provider keyring kek_version kek_copy key key_version key_grant; do
    columns="$(early "SELECT string_agg(quote_ident(attname), ', ') FROM pg_attribute
        WHERE attrelid = 'colcrypt.$table'::regclass AND attnum > 0 AND NOT attisdropped")"
    sql -c "COPY (SELECT $columns FROM colcrypt.$table) TO STDOUT" | early "COPY colcrypt.$table ($columns) FROM STDIN"
done
early "CREATE TABLE customer (id bigint PRIMARY KEY, iban colcrypt.ciphertext)"
sql -c "COPY (SELECT id, colcrypt.encrypt_col('value ' || id, 'customer-data', colcrypt.place_context('customer.iban', id))
    FROM generate_series(1::bigint, 100) id) TO STDOUT" | early "COPY customer FROM STDIN"
early "INSERT INTO colcrypt.protected_column (relation, attribute, key_id, context)
    SELECT 'customer', 'iban', key_id, 'colcrypt.place_context(''customer.iban'', id)' FROM colcrypt.key"

before="$(dpkg-query -W -f '${Version}' colcrypt)"
quietly upgrade apt-get install -qq ./upgrade/*.deb
dpkg --compare-versions "$(dpkg-query -W -f '${Version}' colcrypt)" gt "$before" || die "nothing was upgraded"
grep -q 'ALTER EXTENSION colcrypt UPDATE' upgrade.log || die "the upgrade does not say what to do next"
is "a server that was not restarted reads" "$(first_value)" "$IBAN"
pg_conftool "$PG" main remove shared_preload_libraries
cp /usr/share/doc/colcrypt/examples/colcrypt.conf "/etc/postgresql/$PG/main/conf.d/"
restart
is "after the restart, with the example's configuration" "$(first_value)" "$IBAN"
early "ALTER EXTENSION colcrypt UPDATE"
version="$(sql -c "SELECT extversion FROM pg_extension WHERE extname = 'colcrypt'")"
is "the first release's database is of this one" "$(early "SELECT extversion FROM pg_extension WHERE extname = 'colcrypt'")" "$version"
early_values() {
    early "SELECT count(*) = 100 AND bool_and(colcrypt.decrypt_col(iban, colcrypt.place_context('customer.iban', id)) = 'value ' || id) FROM customer"
}
is "its values are read" "$(early_values)" t
early "SELECT colcrypt.create_access_view('customer')" >/dev/null
early "INSERT INTO customer_access VALUES (101, 'new')"
is "and written" "$(early "SELECT iban FROM customer_access WHERE id = 101")" new
is "its keys verify" "$(early "SELECT bool_and(ok) FROM colcrypt.verify_keys()")" t
is "its audit log verifies" "$(early "SELECT ok FROM colcrypt.verify_audit_log()")" t

refused="$(sql -c 'DROP EXTENSION colcrypt CASCADE' 2>&1 || true)"
[[ "$refused" == *"allow_drop"* ]] || die "DROP EXTENSION with live keys is not refused: $refused"
echo "ok: DROP EXTENSION is refused while there are keys"

cat packages/*.list >files.txt
grep '^/etc/' files.txt >configuration.txt
quietly remove apt-get remove -qq colcrypt "postgresql-$PG-colcrypt"
grep -q "conf.d/colcrypt.conf still preloads colcrypt" remove.log || die "nobody is warned of a server that will not start"
there() { while IFS= read -r file; do if [ -e "$file" ] || [ -L "$file" ]; then echo "$file"; fi; done; }
is "removed: configuration stays" "$(there <files.txt)" "$(cat configuration.txt)"
quietly again apt-get install -qq ./upgrade/*.deb
restart
is "installed again, nothing is lost" "$(first_value)" "$IBAN"

quietly purge apt-get purge -qq colcrypt "postgresql-$PG-colcrypt"
rm "/etc/postgresql/$PG/main/conf.d/colcrypt.conf"
restart
is "the server starts without" "$(sql -c 'SELECT 1')" 1
is "the data stays" "$(sql -c 'SELECT count(*) FROM customer' 2>&1 | tail -n 1)" 1
is "root keys stay" "$(ls /etc/colcrypt)" "hsm.pin"$'\n'"root.key"
rm -r /etc/colcrypt
left="$(there <files.txt)"
# Clusters' data, logs and apt's downloads are not the packages'.
left+="$(find / -xdev \( -path /proc -o -path /sys -o -path "$PWD" -o -path /var/lib/postgresql -o -path /var/log -o -path /var/cache \) -prune \
    -o -name '*colcrypt*' -print)"
is "nothing is left behind" "$left" ""
[ ! -e '/usr/lib/systemd/system/postgresql@.service.d' ] || die "the drop-in's folder was left"
is "nothing is configured" "$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' | grep colcrypt || true)" ""
echo "took $(seconds) s in all"
