# Turns a Debian root with the packages next to this file into a host to deploy to. Run inside it, as a step of the
# Dockerfile and by mmdebstrap for a virtual machine.
set -e
systemctl set-default multi-user.target
# Host keys and the machine-id belong to each host, not here.
rm -f /etc/ssh/ssh_host_* /etc/machine-id /var/lib/dbus/machine-id
install -d -m 700 /root/.ssh
useradd --create-home --shell /bin/bash --no-user-group operator
install -d -m 700 -o operator -g users /home/operator/.ssh
echo 'operator ALL=(ALL) NOPASSWD:ALL' >/etc/sudoers.d/operator
chmod 440 /etc/sudoers.d/operator
