# What a virtual machine has and a system container has not: a network of its own to ask for an address, and a disk.
set -e
# By its name: a match for all Ethernet takes the engine's interfaces out of their bridges, and nothing reaches Redis.
cat >/etc/systemd/network/80-ethernet.network <<'NETWORK'
[Match]
Name=eth0

[Network]
DHCP=ipv4
NETWORK
systemctl enable systemd-networkd.service
# QEMU's own resolver, which asks the machine's.
echo 'nameserver 10.0.2.3' >/etc/resolv.conf
echo '/dev/vda / ext4 errors=remount-ro 0 1' >/etc/fstab
# Empty, not missing: the machine makes one when it boots, and takes nothing else for its first boot.
: >/etc/machine-id
# What mmdebstrap left out to be quick; what a deploy installs shall be whole.
rm -f /etc/dpkg/dpkg.cfg.d/99mmdebstrap
