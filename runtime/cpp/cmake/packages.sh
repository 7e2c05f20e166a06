#!/usr/bin/env bash
# Packages of Debian or Ubuntu that this machine does not have, unpacked into a folder. Nothing is installed, and root is
# not needed.
#
#     packages.sh FOLDER own|later ARCHITECTURE PACKAGE...
#
# own: of the release that runs here, such as those of another architecture; later: of one that has what this one lacks.
# They come through apt from the mirror that it is set up with, signed as its own; its settings and lists are left alone.
# Exit codes: 0 done, 1 not here, and one line says why.
set -euo pipefail

folder=$1 release=$2 architecture=$3
shift 3
fail() { echo "edgeprune: $*" >&2; exit 1; }

[[ -r /etc/os-release ]] && . /etc/os-release
case "${ID:-}" in
    debian) suite=trixie components=main keyring=/usr/share/keyrings/debian-archive-keyring.gpg ;;
    ubuntu) suite=resolute components="main universe" keyring=/usr/share/keyrings/ubuntu-archive-keyring.gpg ;;
    *) fail "$* can be fetched on Debian and Ubuntu alone, this is ${PRETTY_NAME:-something else}" ;;
esac
command -v apt-get > /dev/null && command -v dpkg-deb > /dev/null || fail "fetching $* needs apt-get and dpkg-deb"
[[ $release == later ]] || suite=${VERSION_CODENAME:-stable}
mirror=$(apt-get indextargets --format '$(RELEASE) $(SITE)' 'Created-By: Packages' 2> /dev/null |
    awk -v own="${VERSION_CODENAME:-}" '$1 == own && !found { print $2; found = 1 }')
[[ $mirror ]] || fail "fetching $* needs a mirror, and apt is set up with none of ${VERSION_CODENAME:-its release}"

apt=$(mktemp -d)
trap 'rm -r "$apt"' EXIT
mkdir -p "$apt/lists/partial" "$apt/archives/partial" "$apt/debs"
signed=$([[ -r $keyring ]] && echo "[signed-by=$keyring] " || true)
echo "deb $signed$mirror $suite $components" > "$apt/sources.list"
options=(-qq -o "Dir::Etc::sourcelist=$apt/sources.list" -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::lists=$apt/lists"
    -o "Dir::Cache=$apt" -o "APT::Architecture=$architecture" -o "APT::Architectures=$architecture"
    -o Acquire::Languages=none -o Acquire::Retries=2)
((EUID)) || options+=(-o APT::Sandbox::User=root)

said=$(apt-get "${options[@]}" -o APT::Update::Error-Mode=any update 2>&1) ||
    fail "$mirror $suite could not be read: $(grep -m 1 '^[EW]:' <<< "$said")"
said=$(cd "$apt/debs" && apt-get "${options[@]}" download "$@" 2>&1) ||
    fail "$* could not be fetched from $mirror $suite: $(grep -m 1 '^[EW]:' <<< "$said")"
mkdir -p "$folder"
for package in "$apt"/debs/*.deb; do
    dpkg-deb -x "$package" "$folder"
done
