//! Typed nft rulesets of every role: check, print, install, remove.
