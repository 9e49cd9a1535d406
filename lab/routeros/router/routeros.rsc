# The router's side of the lab: its interfaces and the guard's way to its upstreams, then what
# `destguard router-config routeros` prints. Not run in this repository's tests.
/ip address add interface=ether2 address=10.0.1.1/24
/ipv6 address add interface=ether2 address=fd00:1::1/64
/ip address add interface=ether3 address=10.0.2.1/24
/ipv6 address add interface=ether3 address=fd00:2::1/64
/ip address add interface=ether4 address=10.0.3.1/24
/ipv6 address add interface=ether4 address=fd00:3::1/64
/ip route add dst-address=192.0.2.53/32 gateway=10.0.2.2
/ipv6 route add dst-address=2001:db8:53::53/128 gateway=fd00:2::2
/ip route add dst-address=0.0.0.0/0 blackhole comment=destguard
/ipv6 route add dst-address=::/0 blackhole comment=destguard
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 203.0.113.0/24 && dst-len in 32-32 && gw == 10.0.2.2) { append bgp-communities no-advertise; accept }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 198.51.100.0/24 && dst-len in 32-32 && gw == 10.0.2.2) { append bgp-communities no-advertise; accept }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 198.18.0.0/15 && dst-len in 32-32 && gw == 10.0.2.2) { append bgp-communities no-advertise; accept }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 0.0.0.0/8 && dst-len in 8-32) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 10.0.0.0/8 && dst-len in 8-32) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 100.64.0.0/10 && dst-len in 10-32) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 127.0.0.0/8 && dst-len in 8-32) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 169.254.0.0/16 && dst-len in 16-32) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 172.16.0.0/12 && dst-len in 12-32) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 192.168.0.0/16 && dst-len in 16-32) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 224.0.0.0/4 && dst-len in 4-32) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 240.0.0.0/4 && dst-len in 4-32) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 0.0.0.0/0 && dst-len in 32-32 && gw == 10.0.2.2) { append bgp-communities no-advertise; accept }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in 2001:db8:ff::/48 && dst-len in 128-128 && gw == fd00:2::2) { append bgp-communities no-advertise; accept }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in ::/16 && dst-len in 16-128) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in fc00::/7 && dst-len in 7-128) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in fe80::/10 && dst-len in 10-128) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in ff00::/8 && dst-len in 8-128) { reject }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="if (dst in ::/0 && dst-len in 128-128 && gw == fd00:2::2) { append bgp-communities no-advertise; accept }"
/routing filter rule add chain=destguard-in-router_10_0_3_2 rule="reject"
/routing filter rule add chain=destguard-out-router_10_0_3_2 rule="reject"
# Leave the instance out where your router has one for this AS, and name that below.
/routing bgp instance add name=destguard as=65010 router-id=10.0.3.1
/routing bgp connection add name=destguard-router_10_0_3_2 instance=destguard local.role=ebgp local.address=10.0.3.1 remote.address=10.0.3.2 remote.as=65020 afi=ip,ipv6 hold-time=9s input.filter=destguard-in-router_10_0_3_2 input.limit-process-routes-ipv4=11000 input.limit-process-routes-ipv6=11000 output.filter-chain=destguard-out-router_10_0_3_2 tcp-md5-key="lab-secret" local.ttl=255 connect=no listen=yes
# RouterOS helps at no graceful restart: it drops the routes while the guard restarts.
