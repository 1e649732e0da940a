//! `nft-rules check|print|install|remove --role proxy|logger`

fn main() {}
