//! NFQUEUE, ctnetlink, nft set elements, raw sockets: the syscalls.
