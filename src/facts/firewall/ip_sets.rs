//! The kernel's dump of ipsets (include/uapi/linux/netfilter/ipset/ip_set.h) as sets of the model.
